"""XML files of any size, element by element."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError, TreeBuilder, XMLParser

from mtseg.data.raw import BadRecord, read_text


def read_xml(path: Path, handlers: Mapping[str, Callable[[Element], None]]) -> None:
    """Call a handler with each element of its tag, complete, which is then emptied to save memory. Raises BadRecord,
    also for a document type declaration: it may define entities that expand without end."""

    class Builder(TreeBuilder):
        def doctype(self, name: str, public: str | None, system: str | None) -> None:
            raise BadRecord("broken xml", "has a document type declaration, which annotation files do not need")

        def end(self, tag: str) -> Element:
            element = super().end(tag)
            if tag in handlers:
                handlers[tag](element)
                element.clear()
            return element

    parser = XMLParser(target=Builder())
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                parser.feed(block)
        parser.close()
    except (OSError, ValueError, LookupError, ParseError) as error:
        read_text(path)  # raises for an encoding that is not UTF-8: the likely cause
        raise BadRecord("broken xml", f"cannot be read as XML: {error}") from None
