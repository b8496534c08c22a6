"""`python -m stages.diagnose`: name what is wrong with data, training, predictions or scores, with the cause.

About 20 s for 100 pictures of 256 pixels on one core. Expect metrics/diagnosis.json, data/diagnosis.json (findings and
figures), and a line a finding. `--preflight` instead checks what can be known before training.
"""

import sys
from pathlib import Path

from mtseg.core.errors import UserError, run_stage
from mtseg.core.files import write_json
from mtseg.core.params import Params, load


def main() -> None:
    params = load()
    if sys.argv[1:] == ["--preflight"]:
        return preflight(params)
    if sys.argv[1:]:
        raise UserError(f"unknown argument {' '.join(sys.argv[1:])}; there is --preflight, and no other")
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


def preflight(params: Params) -> None:
    from mtseg.checks import run as checks

    found = checks.alone(
        Path("data/manifest.json"), root=params.data.raw, tasks=params.tasks, model=params.model, input=params.input,
        solver=params.solver, loss=params.loss, device=params.device, seed=params.seed,
    )  # fmt: skip
    checks.heed(found, print)
    print(f"{len(found)} findings, no error: training may start" if found else "nothing found: training may start")


if __name__ == "__main__":
    run_stage(main)
