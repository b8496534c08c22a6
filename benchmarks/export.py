"""`python -m benchmarks.export [--weights FILE]`: a trained model in PyTorch and in each kind of ONNX file.

Run it behind `dvc repro export`. It exports the model, predicts on the validation split with each kind, and then takes
the time of one image (network and masks at full size) in rounds in which every kind has its turn, so that other work on
the machine slows all of them: wall time on two threads, and processor time on one. Expect a table: size of the file,
median and shortest wall time, how many times faster than PyTorch (the median over rounds, or the ratio of the shortest
times, whichever is smaller) by wall time and by processor time, AP, joint AP, and the share of PyTorch's detections
that have the same query and labels; below it, of float32, the largest difference of score, the most pixels in which
two masks differ, and the smallest mask IoU. About 3 minutes on two cores.

Target: ONNX in float32 at least 3 times faster than PyTorch by wall time, int8 at most 1 joint AP lower; exits 1 when
it is missed. float16 is for GPUs: on a CPU ONNX Runtime computes most of it in float32.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask

from mtseg.core import metadata
from mtseg.core.tables import Images, Predictions
from mtseg.data.images import read_image, square
from mtseg.evaluation.ap import scores
from mtseg.evaluation.ap.evaluation import Evaluation
from mtseg.inference.onnx_export import export
from mtseg.inference.onnx_network import OnnxNetwork
from mtseg.inference.onnx_precision import calibration_rows, quantise, to_float16
from mtseg.inference.predictor import predict_split
from mtseg.inference.torch_network import TorchNetwork

THREADS = 2
FASTER, LOST = 3.0, 1.0  # the target
COLUMNS = ("", "MB", "ms", "best ms", "faster", "by CPU", "AP", "joint AP", "same")


class Data:
    """A split as the network takes it."""

    def __init__(self, images: Images, root: Path, size: int):
        self.images = images
        pixels = [read_image(root, image) for image in images]
        self.sizes = [image.shape[:2] for image in pixels]
        self.squares, self.content = zip(*(square(image, size) for image in pixels), strict=True)

    def one(self, i: int) -> tuple[np.ndarray, list, list]:
        i %= len(self.images)
        return self.squares[i][None], [self.content[i]], [self.sizes[i]]


def precision(predictions: Predictions, data: Data, known: metadata.Metadata) -> tuple[float, float]:
    """AP and joint AP."""
    evaluation = Evaluation(data.images, predictions, tasks=known.predicted_tasks(), ranking=known.ranking)
    found = scores.metrics(evaluation)
    return found["segm"]["AP"], found["joint"]["AP"]


def agreement(wanted: Predictions, found: Predictions) -> tuple[float, float, float, int]:
    """Share of the wanted detections that are found with the same query and labels; of these the largest difference of
    score, the smallest mask IoU, and the largest number of pixels in which masks differ."""
    ours, theirs = ({key: row for row, key in enumerate(_keys(own))} for own in (wanted, found))
    rows = np.array([(row, theirs[key]) for key, row in ours.items() if key in theirs]).T
    a, b = (own[some] for own, some in zip((wanted, found), rows, strict=True))
    pairs = zip(a.rles(), b.rles(), strict=True)
    iou = np.array([coco_mask.iou([one], [other], [0])[0, 0] for one, other in pairs])
    pixels = (a.area + b.area) * (1 - iou) / (1 + iou)
    return len(a) / len(wanted), float(np.abs(a.score - b.score).max()), float(iou.min()), round(pixels.max())


def _keys(predictions: Predictions) -> list[tuple]:
    columns = (predictions.image_id, predictions.query, *predictions.labels.values())
    return list(zip(*(column.tolist() for column in columns), strict=True))


def times(networks: Mapping[str, Any], data: Data, rounds: int, clock: Callable[[], float]) -> dict[str, list[float]]:
    """Seconds of one image in each round, by a clock."""
    found = defaultdict(list)
    for i in range(rounds):
        for name, network in networks.items():
            given, began = data.one(i), clock()
            list(network.detect(*given))
            found[name].append(clock() - began)
    return found


def speedup(taken: Mapping[str, list[float]], name: str) -> float:
    """How many times faster than PyTorch."""
    rounds = [theirs / ours for theirs, ours in zip(taken["torch"], taken[name], strict=True)]
    return min(median(rounds), min(taken["torch"]) / min(taken[name]))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.export", description=__doc__.partition("\n")[0])
    parser.add_argument("--weights", type=Path, default="export/segmenter.safetensors", help="a complete model")
    parser.add_argument("--images", type=Path, default="data/coco/val.parquet", help="table of the split to predict")
    parser.add_argument("--root", type=Path, default="data/raw/shapes", help="folder of the images")
    parser.add_argument("--rounds", type=int, default=100)
    given = parser.parse_args()
    torch.set_num_threads(THREADS)
    known = metadata.read(given.weights)
    data = Data(Images.read(given.images), given.root, known.input.size)
    networks: dict[str, Any] = {"torch": TorchNetwork.load(given.weights, known, device="cpu")}
    files = {"torch": given.weights}
    with tempfile.TemporaryDirectory() as folder:
        files |= {name: Path(folder) / f"{name}.onnx" for name in ("float32", "float16", "int8")}
        export(networks["torch"].network, files["float32"], known)
        to_float16(files["float32"], files["float16"])
        some = calibration_rows(len(data.images))
        quantise(files["float32"], files["int8"], np.stack([data.squares[i] for i in some]))
        sizes = {name: file.stat().st_size / 1e6 for name, file in files.items()}
        made = {
            threads: {name: OnnxNetwork(files[name], "cpu", threads=threads) for name in files if name != "torch"}
            for threads in (THREADS, 1)
        }
    alone = networks | made[1]
    networks |= made[THREADS]
    predicted = {
        name: predict_split(network, data.images, root=given.root, metadata=known) for name, network in networks.items()
    }
    taken = times(networks, data, given.rounds, time.perf_counter)
    torch.set_num_threads(1)
    cpu = times(alone, data, given.rounds, time.process_time)
    faster, joint, worst = {}, {}, {}
    print("{:<9}{:>7}{:>9}{:>9}{:>8}{:>8}{:>8}{:>10}{:>9}".format(*COLUMNS))
    for name, own in predicted.items():
        faster[name] = speedup(taken, name)
        ap, joint[name] = precision(own, data, known)
        same, *worst[name] = agreement(predicted["torch"], own)
        timing = f"{1000 * median(taken[name]):>9.1f}{1000 * min(taken[name]):>9.1f}{faster[name]:>8.2f}"
        timing += f"{speedup(cpu, name):>8.2f}"
        print(f"{name:<9}{sizes[name]:>7.1f}{timing}{ap:>8.2f}{joint[name]:>10.2f}{same:>9.2%}")
    line = (
        "float32: scores differ by {:.5f} at most, the smallest mask IoU is {:.4f}, masks differ in {} pixels at most"
    )
    print(line.format(*worst["float32"]))
    return int(faster["float32"] < FASTER or joint["torch"] - joint["int8"] > LOST)


if __name__ == "__main__":
    sys.exit(main())
