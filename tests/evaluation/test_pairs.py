"""Overlaps of predictions and objects: compared with their pixels, and unchanged when read from a file."""

from dataclasses import replace

import pytest
from pycocotools import mask as coco_mask

from mtseg.core.errors import UserError
from mtseg.core.tables import Pairs
from mtseg.evaluation import analysis
from mtseg.evaluation.ap import pairs, scores
from mtseg.evaluation.ap.evaluation import Evaluation
from tests.scenes import box_instance, evaluation, make_tasks, noisy, predict, scene, table

TASKS = make_tasks(3)


def columns(own):
    return {name: own.column(name).tolist() for name in own.names}


def drawn():
    images = scene(TASKS, count=8, partial=True, crowds=True)
    rows = noisy(images, TASKS, copies=3)
    return images, table([*rows, *(replace(row, query=90 + row.query) for row in rows[::4])], TASKS)  # masks twice


def test_masks_overlap_as_their_pixels_do():
    images, predictions = drawn()
    expected = []
    true = [(row, coco_mask.decode(i.segmentation)) for row, image in enumerate(images) for i in image.instances]
    for prediction, (image_id, rle) in enumerate(zip(predictions.image_id, predictions.rles(), strict=True)):
        mask = coco_mask.decode(rle)
        for instance, (image, other) in enumerate(true):
            if images.id[image] == image_id and (both := (mask & other).sum()):
                expected.append((prediction, instance, both / (mask | other).sum(), float(both)))
    found = columns(pairs.of_masks(images, predictions))
    assert list(zip(*found.values(), strict=True)) == expected
    assert len(expected) == 105


def test_pairs_are_stored_once_and_give_what_computed_pairs_give(tmp_path):
    images, predictions = drawn()
    anew = evaluation(images, predictions, TASKS)
    anew.pairs.write(tmp_path / "pairs.parquet", images, predictions)
    stored = Pairs.read(tmp_path / "pairs.parquet", images, predictions)
    assert columns(stored) == columns(anew.pairs)
    read = Evaluation(images, predictions, stored, tasks=TASKS, ranking=anew.ranking, max_dets=anew.max_dets)
    for figures in (scores.metrics, analysis.report):
        assert figures(read) == figures(anew)


def test_predictions_for_other_images_are_refused():
    images = scene(TASKS)
    stray = predict(box_instance((2, 2, 9, 9), {task.name: 0 for task in TASKS}), TASKS, image_id=77)
    small = replace(stray, image_id=2, segmentation={"size": [32, 32], "counts": "PP1"})
    for given, row, named in ((images, stray, "77"), (images, small, "32 x 32"), (images[:0], stray, "77")):
        with pytest.raises(UserError, match=named):
            evaluation(given, [row], TASKS)
