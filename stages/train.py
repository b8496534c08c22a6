"""`python -m stages.train`: train on the train split, validating on val. It starts once the stage check found no error.

About 5 min for the embedded data on two cores; an interrupted training resumes where it stopped. Expect
models/best.safetensors and last.safetensors, metrics/train.json and the curves plots/{train,val,health}.tsv.
"""

from pathlib import Path

from mtseg.core.errors import UserError
from mtseg.core.files import read_json
from mtseg.core.launcher import started
from mtseg.core.params import load
from mtseg.core.signals import run_stage


def main() -> None:
    params = load()  # before the import of PyTorch: a misspelt key shows at once
    verdict = read_json(path := Path("data/check/verdict.json"), made_by="check")
    try:
        listed = [": ".join(filter(None, error)) for error in verdict["errors"]]
    except (KeyError, TypeError):
        raise UserError(f"{path} is not a verdict of the stage check: run `dvc repro check` again") from None
    if listed:
        raise UserError.many("the last check found errors: fix them and run `dvc repro check`", listed)
    if params.launch.processes > 1 and not started(params.launch.processes):
        from mtseg.model.launch import launch

        return launch("stages.train", params.launch)
    from mtseg.training.loop import train

    train(
        Path("data/manifest.json"),
        models=Path("models"),
        metrics=Path("metrics/train.json"),
        curves=Path("plots"),
        root=params.data.raw,
        tasks=params.tasks,
        model=params.model,
        input=params.input,
        solver=params.solver,
        loss=params.loss,
        device=params.device,
        seed=params.seed,
        timeout=params.launch.timeout,
    )


if __name__ == "__main__":
    run_stage(main, help=__doc__)
