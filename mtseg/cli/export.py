"""`mtseg export`."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated

import typer


def command(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", show_default=False, help="A checkpoint of a training, models/best.safetensors."),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", show_default=False, help="The `.safetensors` to write.")],
    params: Annotated[
        Path, typer.Option(metavar="FILE", help="The settings: input.size, test, filter, and the licence, of export.")
    ] = Path("params.yaml"),
) -> None:
    """Write the checkpoint of a training as a file that predicts anywhere, with `mtseg predict` or `mtseg.load`.

    The weights stay the same. Tasks, classes and the network are those of the checkpoint; what a checkpoint of an older
    version does not record is taken from the params. In the pipeline `dvc repro export` does the same, and records the
    scores too.

    Example:

        mtseg export models/best.safetensors --params params.yaml --out segmenter.safetensors

    Exit codes: 0 done, 1 when a file is missing or broken, or the checkpoint was trained with other settings.
    """
    from mtseg.core.errors import UserError
    from mtseg.core.params import load

    if out.suffix != ".safetensors":
        raise UserError(f"--out {out}: the file to write must be a .safetensors")
    if out.resolve() == file.resolve():
        raise UserError(f"--out {out} is the checkpoint itself: choose another name")
    settings = load(params)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # fvcore, on import
        from mtseg.inference import checkpoint

    checkpoint.complete(
        file, out, size=settings.input.size, test=settings.test, filter=settings.filter,
        licence=settings.export.licence, model=settings.model,
    )  # fmt: skip
    print(f"{out}, {out.stat().st_size / 1e6:.1f} MB: try `mtseg info {out}`")
