"""`python -m stages.predict`: run the trained model over the val split and, if the data have one, the test split.

About 5 s for 100 images of 128 pixels on two cores. Expect data/predictions/val.parquet, the table that the next stages
read, and for other tools val.json (COCO results, with the labels and logits of every task) and val.csv; with a test
split also test.parquet, test.json and test.csv, which only the stage `test` reads.
"""

from pathlib import Path

from mtseg.core.errors import run_stage
from mtseg.core.files import replace_folder
from mtseg.core.params import load


def main() -> None:
    params = load()  # before the import of PyTorch: a misspelt key is reported at once
    from mtseg.data import manifest
    from mtseg.inference.export import coco, csv
    from mtseg.inference.torch_network import load_model, predict
    from mtseg.model.device import keep_memory, pick

    keep_memory()
    data = manifest.load(Path("data/manifest.json"))
    tasks = data.tasks(params.tasks)
    checkpoint = Path("models") / f"{params.test.checkpoint}.safetensors"
    model = load_model(checkpoint, tasks=tasks, model=params.model, detections=params.test.detections)
    model.to(pick(params.device))
    with replace_folder("data/predictions") as folder:
        for split in (name for name in ("val", "test") if name in data.splits):
            images = data.images(split)
            found = predict(model, images, root=params.data.raw, input=params.input, batch=params.test.ims_per_batch)
            found.write(folder / f"{split}.parquet", tasks)
            coco.write_results(folder / f"{split}.json", found, tasks)
            csv.write(folder / f"{split}.csv", images, found, tasks)


if __name__ == "__main__":
    run_stage(main)
