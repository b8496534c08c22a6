"""XML files."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from mtseg.core.files import replace_file


def write_xml(path: Path, root: ElementTree.Element) -> None:
    """Indented UTF-8, with a declaration and a newline at the end."""
    ElementTree.indent(root)
    text = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    with replace_file(path) as temporary:
        temporary.write_bytes(text + b"\n")
