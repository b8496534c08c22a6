"""Point sampling of masks by detectron2 (PointRend, arXiv 1912.08193; Mask2Former, section 3.3).

Point coordinates are (x, y) in 0..1 of the image. P points.
"""

from __future__ import annotations

import torch
from detectron2.projects.point_rend.point_features import get_uncertain_point_coords_with_randomness, point_sample
from torch import Tensor

from mtseg.core.params import Loss


def sample(maps_NCHW: Tensor, points_NP2: Tensor) -> Tensor:
    """Bilinear values [N, C, P] of `maps` at `points`."""
    return point_sample(maps_NCHW, points_NP2, align_corners=False)


@torch.no_grad()
def uncertain_points(logits_NHW: Tensor, loss: Loss) -> Tensor:
    """Points [N, P, 2]: the fraction `loss.importance` where logits are closest to 0, the rest uniform."""
    return get_uncertain_point_coords_with_randomness(
        logits_NHW[:, None], lambda logits: -logits.abs(), loss.num_points, loss.oversample, loss.importance
    )
