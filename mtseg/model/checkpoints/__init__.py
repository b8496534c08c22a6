"""Layouts of checkpoints of whole networks, one per file, found by file name.

The file of a layout defines:

matches(state)  whether a state dict has the layout
convert(state)  the tensors with the keys of `Mask2Former.state_dict()`: fused projections split, the backbone below
                `backbone.` (with keys that its `rename` can convert), and the class head of a network without tasks as
                `decoder.heads.main.weight` and `.bias`. Unknown tensors keep their keys, and are reported as unused.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor
from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights

MAIN_HEAD = "decoder.heads.main."
# the names in order of their ids, of which some are not in use and 0 is the background
COCO = tuple(n for n in MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"][1:] if n != "N/A")


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """The state dict of a whole network with this project's keys; None if its layout is unknown."""
    for path in sorted(Path(__file__).parent.glob("[!_]*.py")):
        layout = importlib.import_module(f"{__name__}.{path.stem}")
        if layout.matches(state):
            return layout.convert(state)
    return None


def meaning(rows: int) -> list[str | None]:
    """Classes of the rows of `decoder.heads.main` in a file without class names: COCO's 80 classes in the order of
    their ids if their number fits, else "" (no class has this name), then no-object, None."""
    return [*(COCO if rows == len(COCO) + 1 else [""] * (rows - 1)), None]
