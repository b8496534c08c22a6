"""Trainings on a data set of four drawn images."""

from __future__ import annotations

from mtseg.core.files import write_json
from mtseg.data import convert, manifest, shapes
from mtseg.training import loop
from tests import tiny

SOLVER = {"max_iter": 6, "eval_period": 2, "log_period": 2, "ims_per_batch": 2, "warmup": 2}


def draw(folder):
    """A drawn data set, converted and registered."""
    given = tiny.params(
        generate={"train": 4, "val": 2, "size": 64, "max_objects": 3},
        data={"raw": folder / "raw", "on_error": "error"},
    )
    shapes.generate(given.generate, folder / "raw", seed=given.seed)
    convert.convert(given.data, given.tasks, folder / "coco", seed=given.seed)
    write_json(folder / "manifest.json", manifest.build(folder / "coco"))
    return folder


def run(data, out, monkeypatch, **solver):
    monkeypatch.setenv("MTSEG_WORK", str(out / "work"))
    given = tiny.params(solver=SOLVER | solver)
    loop.train(
        data / "manifest.json", models=out / "models", metrics=out / "train.json", curves=out / "plots",
        root=data / "raw", tasks=given.tasks, model=given.model, input=given.input, solver=given.solver,
        loss=given.loss, device="cpu", seed=3, timeout=60,
    )  # fmt: skip
    return {path.relative_to(out): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}
