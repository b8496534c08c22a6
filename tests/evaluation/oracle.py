"""COCO's AP by pycocotools and by detectron2, for tests that compare this project's with them."""

import contextlib
import io
from collections import defaultdict

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mtseg.core.files import write_json


def kept_by_hand(evaluation, task=None):
    """bool [N]: the best prediction of each query, or of each query and label of a task."""
    seen, kept = set(), np.zeros(len(evaluation.predictions), dtype=bool)
    labels = evaluation.predictions.labels[task.name] if task else np.zeros(len(kept))
    for row in np.argsort(evaluation.rank):
        key = evaluation.predictions.image_id[row], evaluation.predictions.query[row], labels[row]
        kept[row] = key not in seen
        seen.add(key)
    return kept


def combinations(evaluation):
    """Categories of all tasks' labels together, None where one is missing: of each instance, of each prediction, and
    how many the ground truth has."""
    names = [task.name for task in evaluation.tasks]
    true = [tuple(i.labels[name] for name in names) for image in evaluation.images for i in image.instances]
    known = {own: number for number, own in enumerate(sorted({own for own in true if None not in own}))}
    found = zip(*(evaluation.predictions.labels[name].tolist() for name in names), strict=True)
    return [known.get(own) for own in true], [known.get(own, len(known)) for own in found], len(known)


def by_pycocotools(evaluation, true, found, categories, kept=None, kind="segm"):
    """COCO's numbers in percent, those without ground truth left out, and AP [categories, thresholds], 0 to 1 or NaN.

    true: category of each instance, or None: such an object, like a crowd, is neither hit nor miss in any category.
    found: category of each prediction. kept: bool [N]. Predictions are listed by image and query, as ties are broken.
    """
    table = evaluation.predictions
    order = np.lexsort((evaluation.rank, table.image_id))
    order = [row for row in order if found[row] < categories and (kept is None or kept[row])]
    shapes = {"segmentation": table.rles()} if kind == "segm" else {"bbox": table.box.tolist()}
    detections = [
        {
            "image_id": int(table.image_id[row]),
            "category_id": int(found[row]) + 1,
            "score": float(evaluation.scores[row]),
            **{name: own[row] for name, own in shapes.items()},
        }
        for row in order
    ]
    predicted = defaultdict(set)
    for detection in detections:
        predicted[detection["image_id"]].add(detection["category_id"])
    annotations, instances = [], [(image, instance) for image in evaluation.images for instance in image.instances]
    for (image, instance), own in zip(instances, true, strict=True):
        for category in sorted(predicted[image.id]) if own is None else [own + 1]:
            annotations.append(annotation(image, instance, category, crowd=own is None or instance.crowd))
    # ids from 1: pycocotools takes a match with id 0 for no match
    annotations = [own | {"id": number} for number, own in enumerate(annotations, 1)]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = dataset(evaluation.images, annotations, categories)
        truth.createIndex()
        results = COCO()
        results.dataset = dataset(evaluation.images, [], categories)
        coco = COCOeval(truth, truth.loadRes(detections) if detections else results, kind)
        coco.params.maxDets = list(evaluation.max_dets)
        coco.evaluate()
        coco.accumulate()
    precision, recall = coco.eval["precision"][..., -1], coco.eval["recall"]  # [T, R, K, area], [T, K, area, maxDets]
    numbers = {"AP": precision[..., 0], "AP50": precision[0, ..., 0], "AP75": precision[5, ..., 0]}
    numbers |= {f"AR{most}": recall[:, :, 0, place] for place, most in enumerate(coco.params.maxDets)}
    for place, size in enumerate("sml", 1):
        numbers |= {f"AP{size}": precision[..., place], f"AR{size}": recall[:, :, place, -1]}
    numbers = {name: values[values > -1] for name, values in numbers.items()}
    ap = np.where(precision[..., 0] > -1, precision[..., 0], np.nan).mean(axis=1).T
    return {name: 100 * values.mean() for name, values in numbers.items() if len(values)}, ap


def dataset(images, annotations, categories):
    return {
        "info": {},
        "images": [{"id": i.id, "height": i.height, "width": i.width, "file_name": i.file_name} for i in images],
        "categories": [{"id": index + 1, "name": str(index)} for index in range(categories)],
        "annotations": annotations,
    }


def annotation(image, instance, category, crowd=False):
    return {
        "image_id": image.id,
        "category_id": category,
        "segmentation": instance.segmentation,
        "bbox": list(instance.bbox),
        "area": instance.area,
        "iscrowd": int(crowd),
    }


def by_detectron2(evaluation, folder):
    """AP, AP50, AP75, APs, APm, APl of the main task, by kind."""
    main, table = evaluation.tasks[0], evaluation.predictions
    annotations = [
        annotation(image, instance, instance.labels[main.name] + 1, instance.crowd)
        for image in evaluation.images
        for instance in image.instances
    ]
    annotations = [own | {"id": number} for number, own in enumerate(annotations, 1)]
    write_json(folder / "truth.json", dataset(evaluation.images, annotations, main.num_classes))
    name = str(folder)
    ids = {index + 1: index for index in range(main.num_classes)}
    MetadataCatalog.get(name).set(json_file=str(folder / "truth.json"), thing_dataset_id_to_contiguous_id=ids)
    evaluator = COCOEvaluator(name, tasks=("segm", "bbox"), distributed=False, use_fast_impl=False)
    evaluator.reset()
    kept = kept_by_hand(evaluation, main)
    for image in evaluation.images:
        rows = np.flatnonzero(kept & (table.image_id == image.id))
        rows = rows[np.argsort(evaluation.rank[rows])]
        masks = [coco_mask.decode(rle) for rle in table[rows].rles()]
        boxes = torch.tensor(table.box[rows].reshape(-1, 4))
        boxes[:, 2:] += boxes[:, :2]
        instances = Instances((image.height, image.width))
        instances.pred_boxes = Boxes(boxes)
        instances.scores = torch.tensor(evaluation.scores[rows])
        instances.pred_classes = torch.tensor(table.labels[main.name][rows])
        instances.pred_masks = torch.tensor(np.array(masks).reshape(-1, image.height, image.width)).bool()
        evaluator.process([{"image_id": image.id}], [{"instances": instances}])
    with contextlib.redirect_stdout(io.StringIO()):
        found = evaluator.evaluate()
    MetadataCatalog.remove(name)
    return {kind: {key: value for key, value in own.items() if "-" not in key} for kind, own in found.items()}
