"""attr-eomt's files of attributes beside a COCO file that has none.

    attributes.yaml             the classes of each attribute: attributes: [{name, categories: [CLASS or {id, name}]}]
    attributes/SPLIT.json       {annotation id: {attribute: class or its id}}
    annotations/NAME.json       SPLIT is train or val if the name has it, otherwise NAME; also directly beside the two
Format: imagra93/attr-eomt, README and eomt/data/coco.py.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from mtseg.core import yaml
from mtseg.core.errors import quoted
from mtseg.data.files import Files
from mtseg.data.raw import BadRecord, RawData, items, read_record, read_text, whole


class Beside:
    """These files in a folder. values: the paths of those with values."""

    def __init__(self, files: Files) -> None:
        self._folder = files.folder
        lists = [name for name in files.names if PurePosixPath(name).name in ("attributes.yaml", "attributes.yml")]
        self._lists = {PurePosixPath(name).parent: name for name in lists}
        folders = {root / "attributes" for root in self._lists}
        self.values = {name for name in files.ending(".json") if PurePosixPath(name).parent in folders}

    def add(self, data: RawData, where: str, raw: Any) -> None:
        """Add list and values to the contents of the COCO file `where`, in the form that files with attributes have.
        Raises BadRecord."""
        path = PurePosixPath(where)
        root = path.parent.parent if path.parent.name == "annotations" else path.parent
        if root not in self._lists or not isinstance(raw, dict) or raw.get("attributes"):
            return
        raw["attributes"] = self._listed(self._lists[root])
        split = next((name for name in ("train", "val") if name in path.stem.lower()), path.stem.lower())
        source = str(root / "attributes" / f"{split}.json")
        values = read_record(self._folder / source) if source in self.values else {}
        annotations = {str(whole(item.get("id"))): item for item in items(raw, "annotations")}
        for id, own in values.items():
            if id not in annotations or not isinstance(own, dict):
                raise BadRecord(
                    "broken json", f"{source}: {quoted(id)} is no annotation's id, or has no {{attribute: class}}"
                )
            given = annotations[id].get("attributes")
            annotations[id]["attributes"] = (given if isinstance(given, dict) else {}) | own
        if bare := len(annotations) - sum(map(bool, values.values())):
            data.note(f"annotations without a value in {source}, read as unlabelled", bare)

    def _listed(self, name: str) -> list[dict[str, Any]]:
        try:
            raw = yaml.parse(read_text(self._folder / name), "base")  # all scalars as text: 01 and true are names
            return [
                {"name": item["name"], "categories": [_category(*pair) for pair in enumerate(item["categories"])]}
                for item in raw["attributes"]
            ]
        except (KeyError, TypeError, AttributeError):
            raise BadRecord("broken yaml", f"{name} is no list `attributes` of {{name, categories}}") from None
        except ValueError as error:
            raise BadRecord("broken yaml", f"{name} {error}") from None


def _category(number: int, given: Any) -> dict[str, Any]:
    return {"name": given["id"]} | given if isinstance(given, dict) else {"id": number, "name": given}
