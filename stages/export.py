"""`python -m stages.export`: write the model as files that predict anywhere, with `mtseg predict` or `mtseg.load`.

About 3 s; with `export.onnx: true` about a minute more. Expect export/segmenter.safetensors: the weights of
`test.checkpoint` with tasks, classes, input size, ranking, filter and scores in its metadata (`mtseg info FILE`); with
`export.onnx` also export/segmenter.onnx. metrics/export.json has their sizes, and of ONNX its scores on val.
"""

from pathlib import Path

from mtseg.core.errors import run_stage
from mtseg.core.files import read_json, replace_folder, write_json
from mtseg.core.params import load


def main() -> None:
    params = load()
    from mtseg.inference import checkpoint

    scores = {
        "evaluate": read_json("metrics/evaluate.json", made_by="evaluate"),
        "filter": read_json("metrics/filter.json", made_by="filter"),
    }
    rules = params.filter.model_copy(update={"thresholds": "given"} | scores["filter"].get("picked", {}))
    with replace_folder("export") as folder:
        file = folder / "segmenter.safetensors"
        checkpoint.complete(
            Path("models") / f"{params.test.checkpoint}.safetensors", file, size=params.input.size, test=params.test,
            filter=rules, licence=params.export.licence, scores=scores,
        )  # fmt: skip
        metrics = {"safetensors": {"megabytes": round(file.stat().st_size / 1e6, 2)}}
    write_json("metrics/export.json", metrics)
    print(
        f"export/segmenter.safetensors, {metrics['safetensors']['megabytes']} MB: try `mtseg info` and `mtseg predict`"
    )


if __name__ == "__main__":
    run_stage(main)
