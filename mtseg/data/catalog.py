"""The data set in detectron2's catalogs, for tools that look there. The pipeline itself reads the manifest."""

from __future__ import annotations

from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json

from mtseg.data.manifest import Manifest


def register(manifest: Manifest, root: Path) -> dict[str, str]:
    """Register every split and return {split: name in the catalogs}. Calling it again changes nothing: a name carries
    the hash of its annotations, and never means two things in one process.

    The dicts are detectron2's own, each annotation with `labels` {further task: class name or None} (F2).
    """
    names = {split: f"mtseg_{split}_{facts['sha256'][:12]}" for split, facts in manifest.splits.items()}
    for split, name in names.items():
        if name in DatasetCatalog:
            continue
        json = manifest.splits[split]["json"]
        DatasetCatalog.register(
            name, lambda json=json, name=name: load_coco_json(json, str(root), name, extra_annotation_keys=["labels"])
        )
        tasks = {task: list(classes) for task, classes in manifest.classes}
        MetadataCatalog.get(name).set(
            json_file=json, image_root=str(root), thing_classes=tasks[manifest.classes[0][0]], tasks=tasks
        )
    return names
