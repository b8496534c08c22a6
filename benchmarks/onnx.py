"""`python -m benchmarks.onnx DATA [--steps N] [--folder DIR]`: trained networks in PyTorch and as ONNX.

Trains the network of params.yaml on the car parts of recipes/carparts.yaml (DATA, laid out as that file says), with
each backbone and both kinds of heads, briefly; exports it; and compares what PyTorch and ONNX Runtime detect in the
images of val: every detection of PyTorch with a label probability x mask quality of SCORE or more. About 20 minutes on
two cores. Expect a line for each network: detections compared, how many of them also have the default of
`filter.min_score`, the share with the same query and labels, the largest difference of score, the smallest mask IoU,
and the most pixels in which two masks differ. Exits 1 when a label differs, a score by more than 1e-3, or a mask has
IoU below 0.99 and more than one pixel that differs: of a tiny object one is more than a hundredth. DIR keeps the
trained networks.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from ruamel.yaml import YAML
from torch import Tensor
from torch.optim.swa_utils import update_bn

from benchmarks.export import agreement
from benchmarks.relabel import run_stages
from mtseg.core import params
from mtseg.core.metadata import read
from mtseg.data import manifest
from mtseg.data.images import read_image, square
from mtseg.inference import checkpoint
from mtseg.inference.onnx_export import export
from mtseg.inference.onnx_network import OnnxNetwork
from mtseg.inference.predictor import predict_split
from mtseg.inference.torch_network import TorchNetwork
from mtseg.model import weights
from mtseg.model.mask2former import Mask2Former
from mtseg.training.loop import train

ROOT = Path(__file__).parents[1]
BACKBONES = ("efficientnet_lite0", "mobilenetv3_large", "resnet50", "swin_t")
HEADS = {"softmax": 1.0, "combinations": 0.01}  # model.unseen_combinations
SCORE, SHOWN = 0.1, 0.4
SCORES, MASKS = 1e-3, 0.99  # the target
IMAGES = 4  # in a step


def prepare(data: Path) -> None:
    """The project in this folder, up to the training: the data and the tasks of the recipe, the rest of params.yaml."""
    yaml = YAML(typ="safe")
    given, own = yaml.load(ROOT / "params.yaml"), yaml.load(ROOT / "recipes/carparts.yaml")
    shutil.copytree(ROOT / "recipes/mappings", "recipes/mappings")
    given |= {"tasks": own["tasks"], "data": given["data"] | own["data"] | {"raw": str(data)}}
    given["solver"] |= {"ims_per_batch": IMAGES, "backbone_multiplier": 1.0}
    yaml.dump(given, Path("params.yaml"))
    run_stages("convert", "register")


def trained(backbone: str, heads: str, steps: int) -> Path:
    """The complete model of a training, which is made unless it is there. Only EfficientNet has weights in a package;
    the other backbones begin with random ones, and with batch-norm statistics that a short training leaves far off:
    these are computed at its end."""
    models = Path("models") / f"{backbone}-{heads}"
    given = params.load()
    own = {"backbone": backbone, "unseen_combinations": HEADS[heads]}
    if not backbone.startswith("efficientnet"):
        own |= {"weights": None, "freeze_norm": False}
    out = models / "segmenter.safetensors"
    if not models.exists():
        train(
            Path("data/manifest.json"), models=models, metrics=Path("train.json"), curves=Path("curves"),
            root=given.data.raw, tasks=given.tasks, model=given.model.model_copy(update=own), input=given.input,
            solver=given.solver.model_copy(update={"max_iter": steps, "eval_period": steps}), loss=given.loss,
            device="cpu", seed=given.seed, timeout=given.launch.timeout,
        )  # fmt: skip
    known = checkpoint.complete(
        models / "last.safetensors", out, size=given.input.size, test=given.test, filter=given.filter, licence=None
    )
    if not known.model.freeze_norm:
        network = TorchNetwork.load(out, known, device="cpu").network
        update_bn(_batches(network, given.data.raw, known.input.size), network.backbone)
        weights.write(out, network.state_dict(), known.text())
    return out


def _batches(network: Mask2Former, root: Path, size: int) -> Iterator[Tensor]:
    """Images of train, as the backbone takes them."""
    images = manifest.load(Path("data/manifest.json")).images("train")
    for start in range(0, 160, 16):
        squares = np.stack([square(read_image(root, image), size)[0] for image in images[start : start + 16]])
        yield (torch.from_numpy(squares).permute(0, 3, 1, 2).float() - network.pixel_mean) / network.pixel_std


def compare(model: Path) -> tuple[int, int, float, float, float, int]:
    """Detections compared, those of them with SHOWN or more; then what `agreement` returns."""
    known, root = read(model), params.load().data.raw
    images = manifest.load(Path("data/manifest.json")).images("val")
    ours = TorchNetwork.load(model, known, device="cpu")
    wanted = predict_split(ours, images, root=root, metadata=known)
    onnx = model.with_suffix(".onnx")
    export(ours.network, onnx, known)
    found = predict_split(OnnxNetwork(onnx, "cpu"), images, root=root, metadata=known)
    sure = wanted.probability[known.tasks[0].name] * wanted.mask_quality
    if not (sure >= SCORE).any():
        sys.exit(f"{model}: no detection has {SCORE}: train longer, with --steps")
    return int((sure >= SCORE).sum()), int((sure >= SHOWN).sum()), *agreement(wanted[sure >= SCORE], found)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.onnx", description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path, help="folder of the car parts")
    parser.add_argument("--backbones", nargs="+", default=BACKBONES, metavar="NAME")
    parser.add_argument("--heads", nargs="+", choices=HEADS, default=HEADS)
    parser.add_argument("--steps", type=int, default=150, help="of each training")
    parser.add_argument(
        "--folder", type=Path, help="keeps the trained networks; given again, they are not trained anew"
    )
    given = parser.parse_args()
    data, missed, lines = given.data.resolve(), False, []
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        os.environ["MTSEG_WORK"] = "work"
        with contextlib.chdir(folder):
            if not Path("data/manifest.json").exists():
                prepare(data)
            for backbone in given.backbones:
                for heads in given.heads:
                    count, shown, same, score, iou, pixels = compare(trained(backbone, heads, given.steps))
                    missed |= same < 1 or score > SCORES or iou < MASKS and pixels > 1
                    line = f"{backbone:<20}{heads:<14}{count:>6}{shown:>6}{same:>9.2%}{score:>11.6f}{iou:>9.4f}"
                    lines.append(f"{line}{pixels:>4}")
    print(*lines, sep="\n")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
