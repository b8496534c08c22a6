"""A network and images so small that a test can train in a second."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.structures import BitMasks, Instances
from torch import nn

from mtseg.core.params import Params, Task, load
from mtseg.inference.checkpoint import complete
from mtseg.inference.torch_network import description
from mtseg.model import weights
from mtseg.model.mask2former import Mask2Former

SIDE = 64
BACKBONE = "timm/test_efficientnet"  # a thirtieth of the weights of the smallest that is a file
PARAMS = load(Path(__file__).parents[1] / "params.yaml")
SMALL = {
    "model": {"backbone": BACKBONE, "weights": None, "num_queries": 6, "hidden_dim": 32, "num_heads": 4,
              "decoder_layers": 2, "encoder_layers": 1, "encoder_feedforward_dim": 32, "decoder_feedforward_dim": 32,
              "freeze_norm": False, "unseen_combinations": 1},
    "input": {"size": SIDE},
    "loss": {"num_points": 64},
}  # fmt: skip
FILTER = PARAMS.filter.model_copy(update={"drop_background": False, "min_score": 0.0, "min_logit": {}, "nms_iou": 0.9})


def params(**changes: dict[str, Any]) -> Params:
    """params.yaml made small; `changes` are sections of keys to set, checked like the file."""
    raw = PARAMS.model_dump()
    for section in (*SMALL.items(), *changes.items()):
        if isinstance(section[1], dict):
            raw[section[0]] |= section[1]
        else:
            raw[section[0]] = section[1]
    return Params.model_validate(raw)


def network(
    tasks: tuple[Task, ...], seed: int = 0, seen: Sequence[tuple[int, ...]] = (), **changes: dict[str, Any]
) -> Mask2Former:
    torch.manual_seed(seed)
    given = params(tasks=[task.model_dump() for task in tasks], **changes)
    return Mask2Former(tasks, given.model, loss=given.loss, detections=given.test.detections, seen=seen)


def example(tasks: tuple[Task, ...], count: int, seed: int = 0, size: tuple[int, int] = (SIDE, SIDE)) -> dict[str, Any]:
    """An example of the loader: a noise image with `count` rectangles of random labels."""
    draw = torch.Generator().manual_seed(seed)
    masks = torch.zeros(count, SIDE, SIDE, dtype=torch.bool)
    for mask in masks:
        x, y = torch.randint(0, SIDE // 2, (2,), generator=draw).tolist()
        mask[y : y + SIDE // 3, x : x + SIDE // 3] = True
    labels = [torch.randint(0, task.num_classes, (count,), generator=draw) for task in tasks]
    target = Instances((SIDE, SIDE), gt_masks=BitMasks(masks), gt_labels=torch.stack(labels, dim=1))
    image = torch.randint(0, 256, (3, SIDE, SIDE), generator=draw).to(torch.uint8)
    return {
        "image": image, "instances": target, "image_size": size, "height": 50, "width": 40, "image_id": seed,
        "file_name": f"{seed}.jpg",
    }  # fmt: skip


def save(path: Path, model: nn.Module, facts: dict[str, Any]) -> None:
    """A checkpoint of a model. facts: its metadata."""
    weights.write(path, model.state_dict(), json.dumps(facts))


def checkpoint(
    path: Path, tasks: tuple[Task, ...], seen: Sequence[tuple[int, ...]] = (), trained: Mask2Former | None = None,
    **changes: Any,
) -> Path:  # fmt: skip
    """Of a training that has not begun, if not of a `trained` network. seen: if given, one softmax serves all tasks."""
    given = params(tasks=[task.model_dump() for task in tasks], **changes)
    facts = description(tasks, given.model, input=given.input)
    own = network(tasks, seen=seen, **changes) if trained is None else trained
    save(path, own, facts | {"seen": [list(row) for row in seen], "step": 0})
    return path


def segmenter(
    path: Path, tasks: tuple[Task, ...], seen: Sequence[tuple[int, ...]] = (), trained: Mask2Former | None = None,
    **changes: Any,
) -> Path:  # fmt: skip
    """A complete model with a filter that keeps some predictions of random weights."""
    given = params(**changes)
    source = checkpoint(path.with_name(f"of-{path.name}"), tasks, seen, trained, **changes)
    test = given.test.model_copy(update={"detections": 12})
    complete(source, path, size=SIDE, test=test, filter=FILTER, licence="CC0-1.0")
    source.unlink()
    return path
