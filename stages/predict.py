"""Run the trained model over the val split: COCO results plus every task's labels and logits, and a flat table.

python -m stages.predict
"""

from pathlib import Path

from mtseg.data import manifest
from mtseg.errors import run_stage
from mtseg.model.device import keep_memory, pick
from mtseg.params import load
from mtseg.predict import load_model, predict
from mtseg.scoring import predictions

MODELS = Path("models")
OUT = Path("data/predictions")


def main() -> None:
    params = load()
    keep_memory()
    records = manifest.load(Path("data/manifest.json"))
    tasks, images = records.tasks(params.tasks), records.images("val")
    checkpoint = MODELS / f"{params.test.checkpoint}.safetensors"
    model = load_model(checkpoint, tasks=tasks, model=params.model, loss=params.loss, test=params.test)
    found = predict(
        model.to(pick(params.device)), images, root=params.data.raw, input=params.input, batch=params.test.ims_per_batch
    )
    predictions.write(OUT / "val.json", OUT / "val.csv", found, images, tasks)


if __name__ == "__main__":
    run_stage(main)
