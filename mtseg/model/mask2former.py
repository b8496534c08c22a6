"""Multi-task Mask2Former: from images to a dict of losses in training, or to instances with labels of all tasks.

B images, Q queries, K outputs of a task's linear layer, k detections of an image, T tasks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.structures import Instances
from torch import Tensor, nn

from mtseg.core.params import Loss, Model, Task
from mtseg.model import backbones
from mtseg.model.decoder import QueryDecoder, QueryOutput
from mtseg.model.device import to_device
from mtseg.model.heads import Candidates, Head, Heads, build
from mtseg.model.losses import Normaliser, Watch, losses, normaliser
from mtseg.model.matching import Target
from mtseg.model.pixel_decoder import PixelDecoder
from mtseg.model.points import WHOLE, Place
from mtseg.model.recompute import recompute, stages
from mtseg.model.weights import initialise

Detected = tuple[Instances, Tensor]  # of an image, see `Mask2Former.detect`

RESIZED_PIXELS = 2**24  # of masks that are resized at a time: 64 MiB of float32 for each of some three intermediates


class Mask2Former(nn.Module):
    """`forward(batch)` takes a list of the loader's dicts: `image`, uint8 [3, S, S]; in training also `instances` with
    `gt_masks` and `gt_labels`; at inference also `image_size` (height and width of the unpadded part of S x S) and
    `height`, `width` of the original image.

    loss: required for training only. detections: maximum per image (COCO evaluates 100). seen: combinations of labels
    in the training data, see `heads.build`. heads: by default those of `heads.build`.
    """

    def __init__(
        self, tasks: tuple[Task, ...], model: Model, *, loss: Loss | None = None, detections: int = 100,
        seen: Sequence[tuple[int, ...]] = (), heads: Iterable[Head] | None = None,
    ):  # fmt: skip
        super().__init__()
        self.heads = build(tasks, model, seen) if heads is None else Heads(heads)
        if self.heads.tasks != tuple(tasks):
            served = [task.name for task in self.heads.tasks]
            raise ValueError(
                f"heads are for the tasks {served}, expected {[task.name for task in tasks]} in this order"
            )
        self.loss, self.detections, self.num_queries = loss, detections, model.num_queries
        self.watch: Watch | None = None  # called with outputs, targets and matches of each training batch
        self.backbone = backbones.build(model.backbone, freeze_norm=model.freeze_norm)
        common = {"dim": model.hidden_dim, "heads": model.num_heads}
        self.pixel_decoder = PixelDecoder(
            {level: shape.channels for level, shape in self.backbone.output_shape().items()},
            layers=model.encoder_layers, feedforward_dim=model.encoder_feedforward_dim, **common,
        )  # fmt: skip
        self.decoder = QueryDecoder(
            self.heads.outputs(), layers=model.decoder_layers, feedforward_dim=model.decoder_feedforward_dim,
            num_queries=model.num_queries, **common,
        )  # fmt: skip
        if model.recompute in ("backbone", "both"):
            for stage in stages(self.backbone):
                recompute(stage)
        if model.recompute in ("pixel_decoder", "both"):
            for layer in self.pixel_decoder.layers:
                recompute(layer)
        self.register_buffer("pixel_mean", torch.tensor(self.backbone.pixel_mean).view(3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(self.backbone.pixel_std).view(3, 1, 1), persistent=False)
        if model.weights is not None:
            partial = model.partial_weights
            print(initialise(self, model.weights, backbone=model.backbone, tasks=tasks, partial=partial))

    @property
    def tasks(self) -> tuple[Task, ...]:
        return self.heads.tasks

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(
        self, batch: list[dict[str, Any]], norm: Normaliser | None = None, place: Place = WHOLE
    ) -> dict[str, Tensor] | Iterator[Detected]:
        """The losses in training, else what `detect` returns. norm: the normaliser of the step that the batch is a part
        of; by default that of the batch. place: of the images in a batch that several processes share."""
        assert self.loss or not self.training, "a network built without `loss` cannot train; call eval() to predict"
        if not self.training:
            return self.detect(self.queries(batch), batch)
        for module in self.backbone.modules():
            if hasattr(module, "others"):  # drop path
                module.others = len(place.before), len(place.after)
        truth = [example["instances"] for example in batch]
        given = (
            [example["image"] for example in batch],
            [x.gt_masks.tensor for x in truth],
            [x.gt_labels for x in truth],
        )
        moved = iter(to_device([x for kind in given for x in kind], self.device))
        images, masks, labels = ([next(moved) for _ in batch] for _ in given)
        output, targets = self.outputs(torch.stack(images)), list(map(Target, masks, labels))
        if norm is None:
            norm = self.normaliser([x.gt_labels for x in truth])
        with torch.autocast(self.device.type, enabled=False):  # losses in float32
            return losses(output, targets, heads=self.heads, loss=self.loss, norm=norm, watch=self.watch, place=place)

    def normaliser(self, labels: list[Tensor]) -> Normaliser:
        """The normaliser of a step. labels: int [N, T] of each image, of all batches of the step."""
        return normaliser(labels, tasks=self.tasks, num_queries=self.num_queries, loss=self.loss)

    def queries(self, batch: list[dict[str, Any]]) -> QueryOutput:
        """The outputs of all queries in all decoder layers."""
        return self.outputs(torch.stack(to_device([example["image"] for example in batch], self.device)))

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """Levels of the backbone, [B, C, S / stride, S / stride] each, the finest first. images: uint8 [B, 3, S, S],
        RGB."""
        images = (images.float() - self.pixel_mean) / self.pixel_std
        return self.backbone(images.contiguous(memory_format=torch.channels_last))  # 20 % faster on a CPU

    def outputs(self, images: Tensor) -> QueryOutput:
        """images: as for `features`."""
        features = self.features(images)
        # float32 as in the official code: in bfloat16 sampling locations are off by up to a quarter of a pixel
        with torch.autocast(self.device.type, enabled=False):
            mask_features, levels = self.pixel_decoder({name: x.float() for name, x in features.items()})
        return self.decoder(mask_features, levels)

    @torch.no_grad()
    def detect(self, output: QueryOutput, batch: list[dict[str, Any]]) -> Iterator[Detected]:
        """The k most probable pairs of a query and labels in each image, sorted by score = probability x mask quality.
        Masks of an image are made when it is reached, since those of large images take much memory.

        Masks, scores and the labels of all tasks are indexed by the same `query`. Fields: `query` [k], `scores` [k],
        `pred_classes` [k], `pred_labels` [k, T], `logits_TASK` [k, classes] of each task (see `Head.class_logits`),
        `mask_quality` [k], `mask` [k], and the fields of the main head's `Candidates`. `mask` is an index into the
        second result, masks of the original image, bool [N, height, width], each of which is there once. On CUDA there
        can be masks without a detection."""
        last = output.last()
        class_logits, candidates = self.heads.class_logits(last), self.heads.candidates(last, self.detections)
        for b, example in enumerate(batch):
            logits = {f"logits_{name}": x_BQK[b][candidates[b].query] for name, x_BQK in class_logits.items()}
            yield self._of_image(
                candidates[b], logits, output.mask_embed_LBQC[-1, b], output.mask_features_BCHW[b], example
            )

    def _of_image(
        self, found: Candidates, logits: dict[str, Tensor], embed_QC: Tensor, features_CHW: Tensor,
        example: dict[str, Any],
    ) -> Detected:  # fmt: skip
        kept, position = distinct(found.query, self.num_queries)  # each mask is resized once
        mask_logits = torch.einsum("qc,chw->qhw", embed_QC[kept], features_CHW)
        inside, quality = _masks(mask_logits, example)
        scores = found.probability * quality[position]
        order = scores.argsort(descending=True, stable=True)
        instances = Instances(
            (example["height"], example["width"]),
            query=found.query, scores=scores, pred_classes=found.labels[:, 0], pred_labels=found.labels,
            mask_quality=quality[position], mask=position, **found.fields, **logits,
        )  # fmt: skip
        return instances[order], inside


def distinct(query_k: Tensor, num_queries: int) -> tuple[Tensor, Tensor]:
    """The distinct queries, ascending, and the index of each of the k among them. On CUDA, where the host would wait
    for their number, others follow, up to the largest possible number."""
    if query_k.device.type == "cpu":
        return query_k.unique(return_inverse=True)
    used = torch.zeros(num_queries, dtype=torch.int64, device=query_k.device).index_fill(0, query_k, 1)
    first = used.argsort(descending=True, stable=True)[: len(query_k)]
    return first, (used.cumsum(0) - 1)[query_k]


def _masks(logits_Qhw: Tensor, example: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Mask logits at stride 4 -> masks, bool [Q, H, W] at the original size, stored by columns as the encoder of masks
    reads them, and the mean probability inside each, 0 to 1. Few are resized at a time: as float32 they take four times
    the memory of the masks, and more for what is derived from them."""
    H, W = example["height"], example["width"]
    inside_QWH = torch.empty((len(logits_Qhw), W, H), dtype=torch.bool, device=logits_Qhw.device)
    at_once = max(1, RESIZED_PIXELS // max(H * W, example["image"].shape[-2:].numel()))
    quality = []
    for logits, kept in zip(logits_Qhw.split(at_once), inside_QWH.split(at_once), strict=True):
        logits = _to_original(logits, example)
        inside = logits > 0
        kept.copy_(inside.transpose(1, 2))
        area = inside.flatten(1).sum(1)
        quality.append(logits.sigmoid_().mul_(inside).flatten(1).sum(1) / area.clamp(min=1))
    return inside_QWH.transpose(1, 2), torch.cat(quality)


def _to_original(logits_QHW: Tensor, example: dict[str, Any]) -> Tensor:
    """Mask logits [Q, h, w] at stride 4 -> at the original size: upsampled to the input square, cropped, resized."""
    side = example["image"].shape[-2:]
    height, width = example["image_size"]
    square = F.interpolate(logits_QHW[None], size=side, mode="bilinear", align_corners=False)
    size = (example["height"], example["width"])
    return F.interpolate(square[..., :height, :width], size=size, mode="bilinear", align_corners=False)[0]
