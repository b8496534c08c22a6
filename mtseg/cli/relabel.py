"""`mtseg relabel`."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import pandas as pd

    from mtseg.core.params import Params, Task
    from mtseg.core.tables import Images, Predictions

Origin = StrEnum("Origin", ["suspects", "predictions"])
Split = StrEnum("Split", ["val", "train", "test"])
Format = StrEnum("Format", {"labelme": "labelme", "cvat": "cvat", "label_studio": "label-studio"})

MOST, BATCH = 100, 8
SOME_SKIPPED = 2  # exit code


def command(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SOURCE", show_default=False,
            help="With --from predictions: images, videos, folders, or patterns in quotes.",
        ),
    ] = None,
    origin: Annotated[
        Origin,
        typer.Option("--from", help="suspects: annotated images of this project; predictions: new images."),
    ] = Origin.suspects,
    out: Annotated[Path | None, typer.Option(metavar="DIR", show_default=False, help="New folder to write.")] = None,
    format: Annotated[
        Format | None, typer.Option(show_default=Format.labelme.value, help="The tool to correct with.")
    ] = None,
    most: Annotated[
        int | None, typer.Option(min=1, max=100_000, show_default=str(MOST), help="Largest number of images.")
    ] = None,
    split: Annotated[
        Split | None, typer.Option(show_default=Split.val.value, help="With --from suspects: the split to search.")
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", show_default=False, help="With --from predictions: the model, `.safetensors` or `.onnx`."
        ),
    ] = None,
    unlike: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE", show_default=False,
            help="With --from predictions: images of the training; the most different from them come first.",
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto (CUDA if there is one), cpu, cuda or cuda:1.")] = "auto",
    batch: Annotated[
        int | None,
        typer.Option(min=1, max=10_000, show_default=str(BATCH), help="With --from predictions: images at a time."),
    ] = None,
    apply: Annotated[
        Path | None,
        typer.Option(metavar="DIR", show_default=False, help="Put corrected LabelMe files into a copy of data.raw."),
    ] = None,
    to: Annotated[
        Path | None, typer.Option(metavar="DIR", show_default=False, help="With --apply: the copy, a new folder.")
    ] = None,
) -> None:  # fmt: skip
    """Write the images most worth correcting as pre-annotations for LabelMe, CVAT or Label Studio, and put corrections
    back.

    --from suspects: annotated images of the project in this folder, after `dvc repro`, whose annotations the model
    contradicts; those with most suspected errors come first. A note marks each suspected object. The model has learned
    from the errors in train, so that it finds fewer of them with --split train.

        mtseg relabel --out check

    --from predictions: new images, with the model's predictions; those in which most corrections are expected come
    first, without near-duplicates, or with --unlike those that differ most from the training images. A note marks each
    uncertain label.

        mtseg relabel --from predictions shots/ --weights segmenter.safetensors --out check

        mtseg relabel --from predictions shots/ --weights segmenter.safetensors --unlike data/raw/shapes/train --out new

    DIR holds the images, the annotations, and suggestions.csv with a row for each object to check.

    --apply: a copy of data.raw with the corrected LabelMe files. Set `data.raw` to it, run `dvc repro`, and compare
    with `python -m stages.compare HEAD workspace`. data.raw itself is never changed.

        mtseg relabel --apply check --to data/raw/corrected

    Exit codes: 0 done, 1 an error, 2 some images could not be read.
    """
    from mtseg.core.errors import UserError

    new = {"SOURCE": sources, "--weights": weights, "--unlike": unlike, "--batch": batch}  # for new images alone
    if apply or to:
        if not apply or not to:
            raise UserError("give both --apply DIR, the corrected files, and --to DIR, a new folder")
        others = {"--out": out, "--format": format, "--most": most, "--split": split}
        _refuse(new | others, "--apply, which reads LabelMe files, takes --to alone")
        _apply(apply, to)
        return
    if not out:
        raise UserError("give --out DIR, a new folder")
    format, most = format or Format.labelme, most or MOST
    if origin == Origin.predictions:
        _refuse({"--split": split}, "splits are those of the project's data: it is for --from suspects")
        if not weights or not sources:
            raise UserError("--from predictions requires --weights FILE and a SOURCE, such as a folder of images")
        if unlike and weights.suffix == ".onnx":
            raise UserError("--unlike compares what the backbone sees, which ONNX does not give: use the .safetensors")
        _predictions(out, weights, sources, unlike, format=format, most=most, device=device, batch=batch or BATCH)
    else:
        _refuse(new, "suspects are found in this project's data: new images require --from predictions")
        _require_project("--from suspects")
        _suspects(out, split or Split.val, format=format, most=most, device=device)


def _refuse(given: dict[str, Any], reason: str) -> None:
    """Raise UserError if any of these options is given."""
    from mtseg.core.errors import UserError

    if names := [name for name, value in given.items() if value]:
        raise UserError(f"{', '.join(names)}: {reason}")


def _require_project(option: str) -> None:
    from mtseg.core.errors import UserError

    if not Path("params.yaml").exists():
        raise UserError(
            f"{option} works on a project, and this folder has no params.yaml: run it in the project's folder"
        )


def _suspects(out: Path, split: str, *, format: str, most: int, device: str) -> None:
    from mtseg.core.errors import UserError
    from mtseg.core.params import load
    from mtseg.core.tables import Pairs, Predictions
    from mtseg.data import labels, manifest
    from mtseg.evaluation.ap.evaluation import Evaluation
    from mtseg.relabel import folder, suspects

    params, data = load(), manifest.load(Path("data/manifest.json"))
    if params.data.flatten:
        raise UserError("relabel compares the labels of each task: set data.flatten: false and run `dvc repro`")
    if split not in data.splits:
        raise UserError(f"the data have no split {split}, but {', '.join(data.splits)}")
    tasks, images = data.tasks(params.tasks), data.images(split)
    folder.check_new(out)  # before the work
    if split == Split.val:
        predictions = Predictions.read("data/predictions/val.parquet", tasks)
        pairs = Pairs.read("data/evaluation/pairs.parquet", images, predictions)
    else:
        predictions, pairs = _predict(params, tasks, images, device), None
    evaluation = Evaluation(images, predictions, pairs, tasks=tasks, ranking=params.test.ranking)
    found = suspects.find(evaluation, most)
    if found.empty:
        raise UserError(f"no annotation in {split} is suspected: {out} was not written")
    is_labelme = params.data.format == "labelme"
    vocabulary = labels.vocabulary(params.tasks, params.data.mapping) if is_labelme else None
    suspects.write(out, evaluation, found, format=format, raw=params.data.raw, vocabulary=vocabulary)
    _report(out, found, found["image"].nunique())


def _predict(params: Params, tasks: tuple[Task, ...], images: Images, device: str) -> Predictions:
    """With the checkpoint that the stage `predict` uses."""
    from mtseg.model.imports import without_compiler

    with without_compiler():
        from mtseg.inference.torch_network import load_model, predict
        from mtseg.model.device import pick

    checkpoint = Path("models") / f"{params.test.checkpoint}.safetensors"
    model = load_model(checkpoint, tasks=tasks, model=params.model, detections=params.test.detections)
    model.to(pick(params.device if device == "auto" else device))
    return predict(model, images, root=params.data.raw, input=params.input, batch=params.test.ims_per_batch)


def _predictions(
    out: Path, weights: Path, sources: list[str], unlike: str | None, *, format: str, most: int, device: str, batch: int
) -> None:
    import mtseg
    from mtseg.core.errors import UserError
    from mtseg.inference.result import counted
    from mtseg.relabel import different, folder, uncertain

    failed = []

    def skip(name: str, error: UserError) -> None:
        failed.append(name)
        print(f"skipped: {' '.join(str(error).split())}", file=sys.stderr)

    predictor = mtseg.load(weights, device=device)
    folder.check_new(out)  # before the work
    if unlike:
        chosen = different.choose(predictor, sources, unlike, most, batch=batch, on_error=skip)
    else:
        every = list(uncertain.candidates(predictor, sources, batch=batch, on_error=skip))
        chosen = uncertain.choose(every, most)
    if not chosen:
        raise UserError(f"none of {counted(len(failed), 'image')} could be read: {out} was not written")
    found = uncertain.write(out, predictor, sources, chosen, format=format, batch=batch)
    _report(out, found, len(chosen))
    if failed:
        raise typer.Exit(SOME_SKIPPED)


def _apply(corrected: Path, to: Path) -> None:
    from mtseg.core.errors import UserError
    from mtseg.core.params import load
    from mtseg.data import labels
    from mtseg.relabel import corrections

    _require_project("--apply")
    params = load()
    if params.data.format != "labelme":
        raise UserError(f"--apply requires data.format: labelme, params.yaml has {params.data.format}")
    vocabulary = labels.vocabulary(params.tasks, params.data.mapping)
    strict = params.data.on_error == "error"
    replaced, added, invalid = corrections.apply(corrected, params.data.raw, to, vocabulary, check=strict)
    if invalid:
        print(UserError.many(f"{corrected}: {len(invalid)} invalid records, which convert will skip:", invalid))
    print(f"{to}: a copy of {params.data.raw} with {replaced} annotation files replaced and {added} added")
    print(f"set data.raw: {to} in params.yaml and run `dvc repro`")


def _report(out: Path, found: pd.DataFrame, images: int) -> None:
    from mtseg.inference.result import counted

    counts = found["reason"].value_counts().sort_index()
    listed = ", ".join(f"{count} {reason}" for reason, count in counts.items())
    line = f"{out}: {counted(images, 'image')}, {counted(len(found), 'suggestion')}"
    print(line + (f" ({listed})" if listed else ""))
