"""Areas of more masks than pycocotools takes at once."""

import numpy as np
from pycocotools import mask as coco_mask

from mtseg.data import coco


def test_areas_of_more_masks_than_255():
    masks = np.zeros((4, 5, 300), dtype=np.uint8, order="F")
    masks[:2, :3, ::2] = 1
    assert coco.areas(coco_mask.encode(masks)).tolist() == [6.0, 0.0] * 150
    assert coco.areas([]).shape == (0,)
