"""Multi-task Mask2Former: pictures in; a dict of losses out in training, instances with all their labels otherwise.

B pictures, Q queries, K classes of the main task, k detections of a picture, T tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.structures import Instances
from torch import Tensor, nn

from mtseg.core.params import Loss, Model, Task
from mtseg.model import backbones
from mtseg.model.combinations import Combinations
from mtseg.model.decoder import QueryDecoder, QueryOutput
from mtseg.model.losses import Normaliser, Watch, losses, normaliser
from mtseg.model.matching import Target
from mtseg.model.pixel_decoder import PixelDecoder
from mtseg.model.recompute import recompute, stages
from mtseg.model.weights import initialise


class Mask2Former(nn.Module):
    """`forward(batch)` takes the loader's dicts: `image` uint8 [3, S, S], and in training `instances` with `gt_masks`
    and `gt_labels`; at inference `image_size` (height, width: what part of S x S is the picture) and `height`,
    `width` of the original. `loss` is needed to train only; `detections` is the most a picture gets, COCO's 100 unless
    told. `seen`, the combinations of labels in the training data (see `combinations`), puts one softmax over them in
    the place of one for each head."""

    def __init__(
        self, tasks: tuple[Task, ...], model: Model, *, loss: Loss | None = None, detections: int = 100,
        seen: Sequence[tuple[int, ...]] = (),
    ):  # fmt: skip
        super().__init__()
        self.tasks, self.loss, self.detections, self.num_queries = tasks, loss, detections, model.num_queries
        self.watch: Watch | None = None  # is shown the outputs, targets and matches of each training batch
        self.backbone = backbones.build(model.backbone, freeze_norm=model.freeze_norm)
        common = {"dim": model.hidden_dim, "heads": model.num_heads}
        self.pixel_decoder = PixelDecoder(
            self.backbone.output_shape(), layers=model.encoder_layers, feedforward_dim=model.encoder_feedforward_dim,
            **common,
        )  # fmt: skip
        self.decoder = QueryDecoder(
            tasks, layers=model.decoder_layers, feedforward_dim=model.decoder_feedforward_dim,
            num_queries=model.num_queries,
            combinations=Combinations(torch.tensor(seen), model.unseen_combinations) if seen else None, **common,
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
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(
        self, batch: list[dict[str, Any]], norm: Normaliser | None = None
    ) -> dict[str, Tensor] | list[Instances]:
        """`norm`: of the whole step, where the batch is a part of it; by default of the batch."""
        assert self.loss or not self.training, "a network built without `loss` cannot train; call eval() to predict"
        output = self.queries(batch)
        if not self.training:
            return self.detect(output, batch)
        targets = [
            Target(picture["instances"].gt_masks.tensor.to(self.device), picture["instances"].gt_labels.to(self.device))
            for picture in batch
        ]
        if norm is None:
            norm = self.normaliser(batch)
        with torch.autocast(self.device.type, enabled=False):  # in float32, as the output is
            return losses(output, targets, tasks=self.tasks, loss=self.loss, norm=norm, watch=self.watch)

    def normaliser(self, batch: list[dict[str, Any]]) -> Normaliser:
        labels = [picture["instances"].gt_labels for picture in batch]
        return normaliser(labels, tasks=self.tasks, num_queries=self.num_queries, loss=self.loss)

    def queries(self, batch: list[dict[str, Any]]) -> QueryOutput:
        """What all queries of all layers say of the pictures."""
        pictures = torch.stack([picture["image"].to(self.device) for picture in batch])
        pictures = (pictures.float() - self.pixel_mean) / self.pixel_std
        features = self.backbone(pictures.contiguous(memory_format=torch.channels_last))  # a fifth faster on a CPU
        # As the official code does: in bfloat16 the places that attention reads are off by up to a quarter pixel.
        with torch.autocast(self.device.type, enabled=False):
            mask_features, levels = self.pixel_decoder({name: x.float() for name, x in features.items()})
        return self.decoder(mask_features, levels)

    @torch.no_grad()
    def detect(self, output: QueryOutput, batch: list[dict[str, Any]]) -> list[Instances]:
        """The k likeliest pairs of a query and labels in each picture, best first by probability x mask quality. ONE
        index, `query`, slices masks, scores and the labels of all tasks alike, picture by picture (F12). Fields:
        `query` [k], `scores` [k] (product of the labels' probabilities x mask quality; of heads apart the main one's
        alone), `pred_classes` [k], `pred_labels` [k, T], `logits_TASK` [k, K] of each task, `mask_quality` [k],
        `pred_masks` bool [k, height, width] of the original picture; of a softmax over combinations `probabilities`
        [k, T]."""
        last, results = output.last(), []
        for b, picture in enumerate(batch):
            logits = {name: x_BQK[b] for name, x_BQK in last.items()}
            query, labels, certainty, further = self._likely(output, b)

            kept, position = query.unique(return_inverse=True)  # each mask is brought to full size once
            embed = output.mask_embed_LBQC[-1, b, kept]
            mask_logits = torch.einsum("qc,chw->qhw", embed, output.mask_features_BCHW[b])
            mask_logits = _to_original(mask_logits, picture)
            inside = mask_logits > 0
            area = inside.flatten(1).sum(1)
            quality = (mask_logits.sigmoid() * inside).flatten(1).sum(1) / area.clamp(min=1)

            scores = certainty * quality[position]
            order = scores.argsort(descending=True, stable=True)
            found = Instances(
                (picture["height"], picture["width"]),
                query=query, scores=scores, pred_classes=labels[:, 0], pred_labels=labels,
                mask_quality=quality[position], pred_masks=inside[position], **further,
            )  # fmt: skip
            for task in self.tasks:
                found.set(f"logits_{task.name}", logits[task.name][query])
            results.append(found[order])
        return results

    def _likely(self, output: QueryOutput, b: int) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
        """query [k], labels [k, T], what ranks them [k], descending, and further fields."""
        logits = [x_LBQK[-1, b] for x_LBQK in output.logits.values()]
        if output.combinations:
            query, labels, logarithms = output.combinations.read(logits).likely(self.detections)
            return query, labels, logarithms.sum(-1).exp(), {"probabilities": logarithms.exp()}
        classes = self.tasks[0].num_classes
        probability_QK = logits[0].softmax(-1)[:, :classes]
        probability, index = probability_QK.flatten().topk(min(self.detections, probability_QK.numel()))
        query, main_class = index // classes, index % classes
        labels = [x[query, : task.num_classes].argmax(-1) for task, x in zip(self.tasks, logits, strict=True)]
        return query, torch.stack([main_class, *labels[1:]], dim=1), probability, {}


def _to_original(logits_QHW: Tensor, picture: dict[str, Any]) -> Tensor:
    """Mask logits at stride 4 -> at the original size: up to the square, the padding cut off, then resized."""
    side = picture["image"].shape[-2:]
    height, width = picture["image_size"]
    square = F.interpolate(logits_QHW[None], size=side, mode="bilinear", align_corners=False)
    size = (picture["height"], picture["width"])
    return F.interpolate(square[..., :height, :width], size=size, mode="bilinear", align_corners=False)[0]
