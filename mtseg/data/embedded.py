"""`python -m mtseg.data.embedded FOLDER`: write the images that LabelMe embedded in its .json files (imageData) beside
them. An image that exists as a file is not touched."""

from __future__ import annotations

import base64
import io
import sys
from pathlib import Path

from mtseg.core.errors import UserError
from mtseg.core.files import replace_file
from mtseg.core.signals import run_stage
from mtseg.data.files import Files, check_files
from mtseg.data.images import DECODE_ERRORS, open_lazily
from mtseg.data.raw import BadRecord, read_record


def unpack(folder: Path) -> list[str]:
    """Write every embedded image and return the names. Raises UserError, which names the file."""
    check_files(folder, follow_links=True, most=float("inf"))
    files, written = Files(folder), []
    for where in files.ending(".json"):
        try:
            embedded = read_record(folder / where).get("imageData")
            if not embedded or files.image_of_stem(where[: -len(".json")]):
                continue
            content = base64.b64decode(embedded)
            kind = open_lazily(io.BytesIO(content), sys.maxsize).format.lower()
        except (BadRecord, *DECODE_ERRORS) as error:
            raise UserError(f"{folder / where}: the embedded image cannot be read ({error})") from None
        name = f"{where[: -len('.json')]}.{kind}"
        with replace_file(folder / name) as temporary:
            temporary.write_bytes(content)
        written.append(name)
    return written


def main() -> None:
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_dir():
        raise UserError("usage: python -m mtseg.data.embedded FOLDER")
    print(f"{sys.argv[1]}: {len(unpack(Path(sys.argv[1])))} images written")


if __name__ == "__main__":
    run_stage(main)
