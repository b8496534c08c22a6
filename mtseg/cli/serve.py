"""`mtseg serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mtseg.serve.limits import Limits


def command(
    weights: Annotated[
        Path, typer.Option(metavar="FILE", show_default=False, help="The model: `.safetensors`, or `.onnx`.")
    ],
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all of this machine.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8000,
    device: Annotated[str, typer.Option(help="auto (CUDA if there is one), cpu, cuda or cuda:1.")] = "auto",
    batch: Annotated[int, typer.Option(min=1, max=10_000, help="Images at a time.")] = Limits.batch,
    wait: Annotated[
        float, typer.Option(min=0, max=60_000, help="ms that an image waits for others to fill a batch.")
    ] = Limits.wait,
    queue: Annotated[
        int, typer.Option(min=1, max=10_000, help="Requests that may be open at once; more get status 503.")
    ] = Limits.queue,
    max_megabytes: Annotated[
        float, typer.Option(min=0.001, max=2000, help="Largest request, in 10^6 bytes.")
    ] = Limits.megabytes,
    max_megapixels: Annotated[
        float, typer.Option(min=0.001, max=178, help="Largest image; all images of a batch together have no more.")
    ] = Limits.megapixels,
) -> None:
    """Serve a model over HTTP: images in, predictions out as JSON (COCO), CSV, or drawn over the image.

    Example:

        mtseg serve --weights segmenter.safetensors

        curl -F file=@shot.jpg http://127.0.0.1:8000/predict

    POST /predict takes a form or the bytes of an image. GET /docs describes everything, /health, /metrics and /info are
    for those who run it. SIGTERM and Ctrl-C stop it after the accepted requests are answered. There is no password and
    no encryption: put a proxy in front where others reach it.

    Exit codes: 0 stopped, 1 when the model cannot be loaded or the port is taken.
    """
    from mtseg.core.errors import UserError

    try:
        from mtseg.serve.app import run
    except ModuleNotFoundError as error:
        raise UserError(f"mtseg serve needs {error.name}: pip install 'mtseg[serve]'") from None

    limits = Limits(batch=batch, wait=wait, queue=queue, megabytes=max_megabytes, megapixels=max_megapixels)
    run(weights, host=host, port=port, device=device, limits=limits)
