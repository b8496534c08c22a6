"""`mtseg export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    import numpy as np


def command(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", show_default=False, help="A checkpoint of a training; for ONNX a complete `.safetensors`."
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", show_default=False, help="The file to write.")],
    params: Annotated[
        Path, typer.Option(metavar="FILE", help="The settings: input.size, test, filter, and the licence, of export.")
    ] = Path("params.yaml"),
    format: Annotated[
        Literal["safetensors", "onnx"] | None, typer.Option(show_default="the suffix of --out", help="Of the file.")
    ] = None,
    precision: Annotated[
        Literal["float32", "float16", "int8"],
        typer.Option(help="Of ONNX: float16 is for GPUs, int8 for CPUs."),
    ] = "float32",
    calibration: Annotated[
        Path | None,
        typer.Option(
            metavar="SOURCE", show_default=False,
            help="For int8: a folder, video or pattern of images like the training's; some are read, evenly spread.",
        ),
    ] = None,
    assume_params: Annotated[
        bool,
        typer.Option(
            "--assume-params",
            help="Take what a checkpoint of an older version does not record from the params. Only right if they are "
            "those of its training.",
        ),
    ] = False,
) -> None:  # fmt: skip
    """Write a model as a file that predicts anywhere, with `mtseg predict` or `mtseg.load`.

    As `.safetensors`: the checkpoint of a training, completed by the settings in the params. The weights stay the same.
    Tasks, classes and the network are those of the checkpoint. In the pipeline `dvc repro export` does the same, and
    records the scores too.

    As `.onnx`: a complete `.safetensors` for ONNX Runtime, which predicts without PyTorch. It takes up to a minute.

    Examples:

        mtseg export models/best.safetensors --params params.yaml --out segmenter.safetensors

        mtseg export segmenter.safetensors --out segmenter.onnx

        mtseg export segmenter.safetensors --out small.onnx --precision int8 --calibration shots/

    Exit codes: 0 done, 1 when a file is missing or broken, or the checkpoint was trained with other settings.
    """
    from mtseg.core.errors import UserError
    from mtseg.core.files import check_file

    if out.suffix not in (".safetensors", ".onnx") or format and out.suffix != f".{format}":
        raise UserError(
            f"--out {out}: the file to write must be a {f'.{format}' if format else '.safetensors or .onnx'}"
        )
    if out.resolve() == file.resolve():
        raise UserError(f"--out {out} is the file to read: choose another name")
    if out.suffix == ".safetensors" and precision != "float32":
        raise UserError(f"--precision {precision} is for ONNX: choose an --out that ends with .onnx")
    if file.suffix == ".onnx":
        raise UserError(f"{file}: an ONNX file cannot be converted: export from the .safetensors that it was made from")
    if (precision == "int8") != (calibration is not None):
        raise UserError(
            "--precision int8 needs --calibration FOLDER, with images of the training's kind; no other does"
        )
    check_file(out)
    if out.suffix == ".onnx":
        _write_onnx(file, out, precision, calibration)
    else:
        _complete(file, out, params, assume=assume_params)
    print(f"{out}, {out.stat().st_size / 1e6:.1f} MB: try `python -m mtseg info {out}`")


def _complete(file: Path, out: Path, params: Path, *, assume: bool) -> None:
    from mtseg.core.errors import UserError
    from mtseg.core.params import load
    from mtseg.inference.predictor import pytorch

    if not params.exists():
        raise UserError(
            f"{params}: no such file; a checkpoint is completed by the settings of its training: name that project's "
            "params.yaml with --params"
        )
    settings = load(params)
    with pytorch("mtseg export"):
        from mtseg.inference import checkpoint

    checkpoint.complete(
        file, out, size=settings.input.size, test=settings.test, filter=settings.filter,
        licence=settings.export.licence, assumed=settings.model if assume else None,
    )  # fmt: skip


def _write_onnx(file: Path, out: Path, precision: str, calibration: Path | None) -> None:
    from mtseg.core import metadata
    from mtseg.inference.predictor import pytorch

    known = metadata.read(file)
    with pytorch("mtseg export"):
        from mtseg.inference.onnx_export import convert

    squares = None if calibration is None else _squares(calibration, known.input.size)
    convert(file, out, precision=precision, squares=squares)


def _squares(source: Path, size: int) -> np.ndarray:
    """uint8 [N, S, S, 3], of some images of a source. Only these are read, and of videos one frame at a time."""
    import numpy as np

    from mtseg.data.images import square
    from mtseg.inference.onnx_precision import calibration_rows
    from mtseg.inference.sources import files, find

    found = files(source)
    chosen = {*calibration_rows(sum(file.count() for file in found))}
    squares = [square(one.read(), size)[0] for i, one in enumerate(find(found)) if i in chosen]
    return np.stack(squares)
