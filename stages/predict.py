"""`python -m stages.predict`: run the trained model over the val split.

About 5 s for 100 pictures of 128 pixels on two cores. Expect data/predictions/val.json (COCO results plus every task's
labels and logits) and val.csv, the same as a table.
"""

from pathlib import Path

from mtseg.core.errors import run_stage
from mtseg.core.params import load


def main() -> None:
    params = load()  # before the import of PyTorch: a misspelt key shows at once
    from mtseg.data import manifest
    from mtseg.evaluation import predictions
    from mtseg.inference.predictor import load_model, predict
    from mtseg.model.device import keep_memory, pick

    keep_memory()
    records = manifest.load(Path("data/manifest.json"))
    tasks, images = records.tasks(params.tasks), records.images("val")
    checkpoint = Path("models") / f"{params.test.checkpoint}.safetensors"
    model = load_model(checkpoint, tasks=tasks, model=params.model, detections=params.test.detections)
    model.to(pick(params.device))
    found = predict(model, images, root=params.data.raw, input=params.input, batch=params.test.ims_per_batch)
    predictions.write(Path("data/predictions/val.json"), Path("data/predictions/val.csv"), found, images, tasks)


if __name__ == "__main__":
    run_stage(main)
