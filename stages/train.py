"""Train the multi-task Mask2Former on the train split, validating on val; an interrupted training resumes.

python -m stages.train
"""

from pathlib import Path

from mtseg.errors import run_stage
from mtseg.params import load
from mtseg.train import Outputs, train


def main() -> None:
    params = load()
    train(
        Path("data/manifest.json"),
        Outputs(models=Path("models"), metrics=Path("metrics/train.json"), curves=Path("plots")),
        root=params.data.raw,
        tasks=params.tasks,
        model=params.model,
        input=params.input,
        solver=params.solver,
        loss=params.loss,
        test=params.test,
        device=params.device,
        seed=params.seed,
    )


if __name__ == "__main__":
    run_stage(main)
