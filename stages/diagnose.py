"""`python -m stages.diagnose`: name what is wrong with data, training, predictions or scores, with the cause.

About 20 s for 100 pictures of 256 pixels on one core. Expect metrics/diagnosis.json, data/diagnosis.json (findings and
figures), and a line a finding.
"""

from pathlib import Path

from mtseg.core.errors import run_stage
from mtseg.core.files import write_json
from mtseg.core.params import load


def main() -> None:
    params = load()
    from mtseg.data import manifest
    from mtseg.diagnosis import readout
    from mtseg.diagnosis import run as examine
    from mtseg.diagnosis.probe import probe
    from mtseg.evaluation import predictions

    data = manifest.load(Path("data/manifest.json"))
    tasks, images, train = data.tasks(params.tasks), data.images("val"), data.images("train")
    found = predictions.read(Path("data/predictions/val.json"), tasks)
    checkpoint = Path("models") / f"{params.test.checkpoint}.safetensors"
    of_train, of_val, known = probe(
        checkpoint, found, train=train, val=images, tasks=tasks, model=params.model, input=params.input,
        root=params.data.raw, detections=params.test.detections, batch=params.test.ims_per_batch, device=params.device,
    )  # fmt: skip
    pictures = len(train)
    del train  # 3 GB of COCO
    diagnosis = examine.examine(
        images, found, tasks=tasks, train=of_train, val=of_val, known=known, pictures=pictures,
        curve=readout.curve(Path("plots/train.tsv")), validated=readout.curve(Path("plots/val.tsv")),
        health=readout.curve(Path("plots/health.tsv")), model=params.model, solver=params.solver, test=params.test,
    )  # fmt: skip
    write_json(Path("metrics/diagnosis.json"), diagnosis.metrics)
    write_json(Path("data/diagnosis.json"), readout.record(diagnosis))
    print(readout.text(diagnosis))


if __name__ == "__main__":
    run_stage(main)
