"""`python -m stages.predict`: run the trained model over the val split and, if the data have one, the test split.

About 5 s for 100 images of 128 pixels on two cores; an interrupted run continues where it stopped. Expect
data/predictions/val.parquet, the table that the next stages read, and for other tools val.json (COCO results, with the
labels and logits of every task) and val.csv; with a test split also test.parquet, test.json and test.csv, which only
the stage `test` reads.
"""

from pathlib import Path

from mtseg.core.launcher import started
from mtseg.core.params import load
from mtseg.core.signals import run_stage
from mtseg.model.imports import without_compiler


def main() -> None:
    params = load()  # before the import of PyTorch: a misspelt key is reported at once
    if params.launch.nproc_per_node > 1 and not started(params.launch.nproc_per_node):
        from mtseg.model.launch import launch

        return launch("stages.predict", params.launch.model_copy(update={"nnodes": 1}))
    with without_compiler():
        from mtseg.inference.splits import predict_splits

    predict_splits(
        Path("data/manifest.json"),
        out=Path("data/predictions"),
        checkpoint=Path("models") / f"{params.test.checkpoint}.safetensors",
        root=params.data.raw,
        tasks=params.tasks,
        model=params.model,
        input=params.input,
        detections=params.test.detections,
        batch=params.test.ims_per_batch,
        device=params.device,
        timeout=params.launch.timeout,
    )


if __name__ == "__main__":
    run_stage(main, help=__doc__)
