"""mtseg: Mask2Former in which every instance carries several labels, as a pipeline you can debug."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mtseg.core.errors import UserError

if TYPE_CHECKING:
    from mtseg.inference.predictor import Predictor

__version__ = "0.1.0"
__all__ = ["UserError", "load"]


def load(path: Path | str, *, device: str = "auto", compile: bool = False) -> Predictor:
    """A trained model, from a `.safetensors` or `.onnx` file that `mtseg export` or the stage `export` wrote.

    device: `auto` (CUDA if there is one), `cpu`, `cuda` or `cuda:1`. compile: a `.safetensors`, by `torch.compile`; it
    takes a minute or two and a C++ compiler, and makes predictions faster, one image at a time. Raises
    `mtseg.UserError` when the file is missing, broken or no complete model, when the device is not there, when a
    package that the file needs is not installed, or when the network does not compile.

        predictor = mtseg.load("export/segmenter.safetensors")
        result = predictor.predict("shots/")        # a table of all predictions
        result.to_dataframe()                       # or to_coco(), to_supervision(), plot()
    """
    from mtseg.inference.predictor import load  # here: `import mtseg` alone is fast

    return load(path, device=device, compile=compile)
