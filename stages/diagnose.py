"""`python -m stages.diagnose`: find what is wrong with data, training, predictions or scores, and name the cause.

About 20 s for 100 images of 256 pixels on one core. Expect metrics/diagnosis.json, data/diagnosis.json (findings and
figures), and a line for each finding.
"""

from pathlib import Path

from mtseg.core.files import read_table, write_json
from mtseg.core.params import load
from mtseg.core.signals import run_stage
from mtseg.core.tables import Pairs, Predictions
from mtseg.model.imports import without_compiler


def main() -> None:
    params = load()
    with without_compiler():
        from mtseg.data import manifest
        from mtseg.diagnosis import run
        from mtseg.diagnosis.probe import probe
        from mtseg.evaluation.ap.evaluation import Evaluation
        from mtseg.model import weights

    data, test = manifest.load(Path("data/manifest.json")), params.test
    tasks, images = data.tasks(params.tasks), data.images("val")
    predictions = Predictions.read("data/predictions/val.parquet", tasks)
    pairs = Pairs.read("data/evaluation/pairs.parquet", images, predictions)
    curve = read_table("plots/train.tsv", "train", keys=("step", "lr", "loss"))
    validated = read_table("plots/val.tsv", "train", keys=("step",))
    health = read_table("plots/health.tsv", "train", keys=("step", "stability"))
    checkpoint = Path("models") / f"{test.checkpoint}.safetensors"
    train, val, known = probe(
        checkpoint, predictions, train=data.images("train"), val=images,
        tasks=tasks, model=params.model, input=params.input, root=params.data.raw, detections=test.detections,
        batch=test.ims_per_batch, device=params.device,
    )  # fmt: skip
    evaluation = Evaluation(images, predictions, pairs, tasks=tasks, ranking=test.ranking, max_dets=test.max_dets)
    diagnosis = run.diagnose(
        evaluation, train=train, val=val, known=known, curve=curve, validated=validated,
        summary=weights.load(checkpoint)[1].get("summary", ()), health=health, model=params.model, input=params.input,
        solver=params.solver, test=test, filter=params.filter, images=data.splits["train"]["images"],
    )  # fmt: skip
    write_json(Path("metrics/diagnosis.json"), diagnosis.metrics)
    write_json(Path("data/diagnosis.json"), run.record(diagnosis))
    print(run.text(diagnosis))


if __name__ == "__main__":
    run_stage(main, help=__doc__)
