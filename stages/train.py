"""`python -m stages.train`: check data, params and network, then train on the train split, validating on val.

About 5 min for the embedded data on two cores; an interrupted training resumes where it stopped. Expect
models/best.safetensors and last.safetensors, metrics/train.json and the curves plots/{train,val,health}.tsv.
"""

from pathlib import Path

from mtseg.core.errors import run_stage
from mtseg.core.params import load


def main() -> None:
    params = load()  # before the import of PyTorch: a misspelt key shows at once
    from mtseg.training.loop import Outputs, train

    train(
        Path("data/manifest.json"),
        Outputs(models=Path("models"), metrics=Path("metrics/train.json"), curves=Path("plots")),
        root=params.data.raw,
        tasks=params.tasks,
        model=params.model,
        input=params.input,
        solver=params.solver,
        loss=params.loss,
        device=params.device,
        seed=params.seed,
    )


if __name__ == "__main__":
    run_stage(main)
