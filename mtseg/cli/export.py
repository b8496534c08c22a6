"""`mtseg export`."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    import numpy as np

    from mtseg.core.metadata import Metadata

CALIBRATION = 50  # images, of which int8 learns the range of every activation


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
            metavar="FOLDER", show_default=False, help=f"For int8: images like the training's; {CALIBRATION} are read."
        ),
    ] = None,
) -> None:  # fmt: skip
    """Write a model as a file that predicts anywhere, with `mtseg predict` or `mtseg.load`.

    As `.safetensors`: the checkpoint of a training, completed by the settings in the params. The weights stay the same.
    Tasks, classes and the network are those of the checkpoint; what a checkpoint of an older version does not record is
    taken from the params. In the pipeline `dvc repro export` does the same, and records the scores too.

    As `.onnx`: a complete `.safetensors` for ONNX Runtime, which predicts without PyTorch. It takes up to a minute.

    Examples:

        mtseg export models/best.safetensors --params params.yaml --out segmenter.safetensors

        mtseg export segmenter.safetensors --out segmenter.onnx

        mtseg export segmenter.safetensors --out small.onnx --precision int8 --calibration shots/

    Exit codes: 0 done, 1 when a file is missing or broken, or the checkpoint was trained with other settings.
    """
    from mtseg.core.errors import UserError

    if out.suffix not in (".safetensors", ".onnx") or format and out.suffix != f".{format}":
        raise UserError(
            f"--out {out}: the file to write must be a {f'.{format}' if format else '.safetensors or .onnx'}"
        )
    if out.resolve() == file.resolve():
        raise UserError(f"--out {out} is the file to read: choose another name")
    if out.suffix == ".safetensors" and precision != "float32":
        raise UserError(f"--precision {precision} is for ONNX: choose an --out that ends with .onnx")
    if (precision == "int8") != (calibration is not None):
        raise UserError(
            "--precision int8 needs --calibration FOLDER, with images of the training's kind; no other does"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # fvcore, on import
        if out.suffix == ".onnx":
            _write_onnx(file, out, precision, calibration)
        else:
            _complete(file, out, params)
    print(f"{out}, {out.stat().st_size / 1e6:.1f} MB: try `mtseg info {out}`")


def _complete(file: Path, out: Path, params: Path) -> None:
    from mtseg.core.params import load

    settings = load(params)
    from mtseg.inference import checkpoint

    checkpoint.complete(
        file, out, size=settings.input.size, test=settings.test, filter=settings.filter,
        licence=settings.export.licence, model=settings.model,
    )  # fmt: skip


def _write_onnx(file: Path, out: Path, precision: str, calibration: Path | None) -> None:
    from mtseg.core import metadata

    squares = None if calibration is None else _squares(calibration, metadata.read(file))
    from mtseg.inference.onnx_export import convert

    convert(file, out, precision=precision, squares=squares)


def _squares(source: Path, known: Metadata) -> np.ndarray:
    """uint8 [N, S, S, 3], of images evenly spread over the source."""
    import numpy as np

    from mtseg.data.images import square
    from mtseg.inference.sources import files, find

    found = files(source)
    chosen = found[:: max(1, len(found) // CALIBRATION)][:CALIBRATION]
    return np.stack([square(one.read(), known.input.size)[0] for one in find(chosen)])
