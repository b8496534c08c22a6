"""`python -m stages.export`: write the model as files that predict anywhere, with `mtseg predict` or `mtseg.load`.

About 5 s; with `export.onnx: true` about a minute more. Expect export/segmenter.safetensors: the weights of
`test.checkpoint` with tasks, classes, input size, ranking, filter and scores in its metadata (`mtseg info FILE`); with
`export.onnx` also export/segmenter.onnx. metrics/export.json has their sizes, and the AP of the ONNX file on val.
"""

from pathlib import Path

from mtseg.core.files import read_json, replace_folder, write_json
from mtseg.core.params import load
from mtseg.core.signals import run_stage


def main() -> None:
    params = load()
    from mtseg.inference import checkpoint

    if params.export.onnx:  # before anything is written: it takes seconds
        from mtseg.inference import onnx_export

    scores = {
        "evaluate": read_json("metrics/evaluate.json", made_by="evaluate", keys=("segm", "joint")),
        "filter": read_json("metrics/filter.json", made_by="filter", keys=("filtered",)),
    }
    if tested := read_json("metrics/test.json", made_by="test", keys=()):  # {} without a test split
        scores["test"] = tested
    rules = params.filter.model_copy(update={"thresholds": "given"} | scores["filter"].get("picked", {}))
    with replace_folder("export") as folder:
        file = folder / "segmenter.safetensors"
        checkpoint.complete(
            Path("models") / f"{params.test.checkpoint}.safetensors", file, size=params.input.size, test=params.test,
            filter=rules, licence=params.export.licence, scores=scores,
        )  # fmt: skip
        metrics = {"safetensors": {"megabytes": _megabytes(file)}}
        if params.export.onnx:
            from mtseg.data import manifest

            images = manifest.load(Path("data/manifest.json")).images("val")
            onnx = folder / "segmenter.onnx"
            ap = onnx_export.convert_and_score(
                file,
                onnx,
                images,
                root=params.data.raw,
                precision=params.export.precision,
                max_dets=params.test.max_dets,
            )
            metrics["onnx"] = {"megabytes": _megabytes(onnx)} | ap
    write_json("metrics/export.json", metrics)
    print("".join(f"export/segmenter.{kind}, {own['megabytes']} MB\n" for kind, own in metrics.items()), end="")


def _megabytes(file: Path) -> float:
    return round(file.stat().st_size / 1e6, 2)


if __name__ == "__main__":
    run_stage(main, help=__doc__)
