"""Checkpoints of whole networks, one file for each layout, found by file name.

A layout's file holds
  matches(state)  whether a state dict is of that layout;
  convert(state)  the same tensors under this project's keys, as they stand in `Mask2Former.state_dict()`: fused
                  projections split, the backbone's keys below `backbone.` (what the backbone's own `rename` knows may
                  stay as it is), and the one head of a network without tasks as `decoder.heads.main.weight` and
                  `.bias`, whose rows `meaning` names. An unknown tensor keeps its key, and is reported as unused.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path

from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from torch import Tensor

MAIN_HEAD = "decoder.heads.main."
COCO = tuple(category["name"] for category in COCO_CATEGORIES if category["isthing"])  # in order of their ids


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """The state dict of a whole network under this project's keys; None when it is of none that are known."""
    for path in sorted(Path(__file__).parent.glob("[!_]*.py")):
        layout = importlib.import_module(f"{__name__}.{path.stem}")
        if layout.matches(state):
            return layout.convert(state)
    return None


def meaning(rows: int) -> list[str | None]:
    """Names of the rows of a main head in a file without class names: COCO's 80 classes if it has as many, in the order
    of the published networks; else "", which no class is called. The last is no-object, None."""
    return [*(COCO if rows == len(COCO) + 1 else [""] * (rows - 1)), None]
