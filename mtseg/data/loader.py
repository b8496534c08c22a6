"""Load images and ground truth in batches. The mapper applies one transform to an image and its masks. A batch depends
only on (seed, step), so that a resumed training run gets the same batches as an uninterrupted one.

S side of the square that the model sees, N instances, T tasks.
"""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Literal

import detectron2.data.transforms as T
import numpy as np
import torch
from detectron2.structures import BitMasks, Instances
from detectron2.structures.masks import polygons_to_bitmask
from fvcore.transforms.transform import HFlipTransform
from torch.utils.data import DataLoader, Dataset, Sampler

from mtseg.core.errors import UserError
from mtseg.core.masks import Segmentation, mask
from mtseg.core.params import Input, Task
from mtseg.core.tables import UNLABELLED, Image, Instance
from mtseg.data.images import PAD, read_image, square

Example = dict[str, Any]


class Mapper:
    """Map an image's record to the model's input.

    In training: large-scale jitter (resize by a random factor, crop or pad to S x S; arXiv 2012.07177) and flip, which
    swaps the labels of each task's flip_pairs. In prediction: the longer side is resized to S and the image padded at
    the right and bottom. All images then have the same size, so that a prediction does not depend on its batch.
    """

    def __init__(self, tasks: Sequence[Task], input: Input, *, root: Path, training: bool):
        self.tasks, self.size, self.root, self.training = tasks, input.size, root, training
        size = (input.size, input.size)
        self.augmentations = [
            T.ResizeScale(input.min_scale, input.max_scale, *size),
            T.FixedSizeCrop(size, pad_value=float(PAD), seg_pad_value=0),
            T.RandomFlip(prob=input.flip),
        ]
        self.flipped = [np.array(task.flipped()) for task in tasks]

    def __call__(self, image: Image, seed: int = 0) -> Example:
        """Returns `image` uint8 [3, S, S] RGB, `image_size` (height, width) without padding, `height` and `width` of
        the original, `image_id`, `file_name`; in training `instances` with `gt_masks` and `gt_labels` [N, T] (-1 if
        unlabelled). Raises UserError when the image does not fit its record."""
        example = {name: getattr(image, name) for name in ("height", "width", "file_name")} | {"image_id": image.id}
        pixels = read_image(self.root, image)
        if self.training:
            np.random.seed(seed % 2**32)  # detectron2's augmentations use numpy's global generator
            augmented = T.AugInput(pixels)
            transforms = T.AugmentationList(self.augmentations)(augmented)
            pixels, resized = augmented.image, transforms.transforms[0]
            content = (resized.new_h, resized.new_w)
            example["instances"] = self._instances(image, transforms, pixels.shape[:2])
        else:
            pixels, content = square(pixels, self.size)
        planes = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))).to(torch.uint8)
        return example | {"image": planes, "image_size": content}

    def _instances(self, image: Image, transforms: T.TransformList, size: tuple[int, int]) -> Instances:
        flip = any(isinstance(transform, HFlipTransform) for transform in transforms.transforms)
        instances = [instance for instance in image.instances if not instance.crowd]
        labels = [[self._label(image, instance, i, flip) for i in range(len(self.tasks))] for instance in instances]
        masks = [_moved_mask(instance.segmentation, image, transforms, size) for instance in instances]
        kept = [i for i, moved in enumerate(masks) if moved.any()]  # the others are outside the crop
        target = Instances(size)
        target.gt_masks = BitMasks(np.stack([masks[i] for i in kept]) if kept else np.zeros((0, *size), dtype=bool))
        target.gt_labels = torch.tensor([labels[i] for i in kept], dtype=torch.long).view(len(kept), len(self.tasks))
        return target

    def _label(self, image: Image, instance: Instance, i: int, flip: bool) -> int:
        task = self.tasks[i]
        label = instance.labels[task.name]
        if label is None:
            return UNLABELLED
        if not 0 <= label < task.num_classes:  # in the loss, CUDA would fail with an unclear assertion
            raise UserError(
                f"{image.file_name}, annotation {instance.id}: label {label} of task '{task.name}' "
                f"is outside 0..{task.num_classes - 1}: run `dvc repro convert`"
            )
        return int(self.flipped[i][label]) if flip else label


def _moved_mask(
    segmentation: Segmentation, image: Image, transforms: T.TransformList, size: tuple[int, int]
) -> np.ndarray:
    """Bool mask [S, S]. Polygons are transformed as points and drawn at the new size: sharper than resizing a mask."""
    if isinstance(segmentation, list):
        points = [transforms.apply_coords(np.reshape(polygon, (-1, 2))) for polygon in segmentation]
        return polygons_to_bitmask([polygon.reshape(-1) for polygon in points], *size)
    return transforms.apply_segmentation(mask(segmentation, image.height, image.width)).astype(bool)


class _Examples(Dataset):
    """Indexed by (image, seed of its augmentation)."""

    def __init__(self, images: Sequence[Image], mapper: Mapper):
        self.images, self.mapper = images, mapper

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: tuple[int, int]) -> Example | UserError:
        """A UserError is returned, not raised: a worker process would wrap it in a traceback."""
        index, seed = key
        try:
            return self.mapper(self.images[index], seed)
        except UserError as error:
            return error


class _Steps(Sampler):
    """Batches of (image, seed) from batch `start`, or a part of each. The permutation of an epoch depends only on
    (seed, epoch), the seed of an image only on its place in the stream."""

    def __init__(self, images: int, *, batch: int, start: int, stop: int, seed: int, part: tuple[int, int]):
        self.images, self.batch, self.start, self.stop, self.seed = images, batch, start, stop, seed
        number, parts = part
        self.first, self.last = batch * number // parts, batch * (number + 1) // parts

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, order = None, None
        for number in range(self.start, self.stop):
            keys = []
            for draw in range(number * self.batch + self.first, number * self.batch + self.last):
                if draw // self.images != epoch:
                    epoch = draw // self.images
                    order = np.random.default_rng((self.seed, epoch)).permutation(self.images)
                image_seed = np.random.SeedSequence((self.seed, draw)).generate_state(1)[0]
                keys.append((int(order[draw % self.images]), int(image_seed)))
            yield keys


def training_batches(
    images: Sequence[Image],
    mapper: Mapper,
    *,
    batch: int,
    start: int,
    stop: int,
    seed: int,
    workers: int | Literal["auto"],
    part: tuple[int, int] = (0, 1),
) -> Iterator[list[Example]]:
    """Batches `start` to `stop` of an endless, seeded stream of the images. part: (0, 2) and (1, 2) are the first
    and the second half of each batch, for two processes that share them."""
    steps = _Steps(len(images), batch=batch, start=start, stop=stop, seed=seed, part=part)
    return _load(images, mapper, steps, workers)


def prediction_batches(
    images: Sequence[Image], mapper: Mapper, *, batch: int, workers: int | Literal["auto"]
) -> Iterator[list[Example]]:
    """Batches of all images, in order."""
    keys = [[(i, 0) for i in range(at, min(at + batch, len(images)))] for at in range(0, len(images), batch)]
    return _load(images, mapper, keys, workers)


def processes(workers: int | Literal["auto"]) -> int:
    """`auto`: none without CUDA, where the training itself needs all cores, which the processes of torchrun share."""
    if workers != "auto":
        return workers
    cores = len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return min(8, max(1, cores)) if torch.cuda.is_available() else 0


def _load(
    images: Sequence[Image], mapper: Mapper, keys: Iterable, workers: int | Literal["auto"]
) -> Iterator[list[Example]]:
    sent = deque()  # keys of the batches that are not here yet
    loader = DataLoader(
        _Examples(images, mapper), batch_sampler=_noted(keys, sent), num_workers=processes(workers), collate_fn=list
    )
    before = signal.getsignal(signal.SIGCHLD)
    iterator = iter(loader)
    if signal.getsignal(signal.SIGCHLD) is not before:  # PyTorch's raises an error anywhere, such as within a step
        signal.signal(signal.SIGCHLD, before)
    for number in count():
        try:
            batch = next(iterator)
        except StopIteration:
            return
        except (EOFError, OSError, RuntimeError):
            workers = getattr(iterator, "_workers", ())
            # 1 s, for its last pipe closes a little later
            gone = wait([worker.sentinel for worker in workers], timeout=1) if workers else []
            if not (ended := [place for place, worker in enumerate(workers) if worker.sentinel in gone]):
                raise
            # the processes get batches in turn; each has two at once, and may have loaded the first
            own = [key for at, keys in enumerate(sent, number) if at % len(workers) in ended for key in keys]
            names = ", ".join(images[index].file_name for index, _ in own)
            raise UserError(
                f"a process that loads images was killed, probably out of memory, while it had to load {names}: lower "
                "input.workers, or cut large images into tiles"
            ) from None
        sent.popleft()
        for example in batch:
            if isinstance(example, UserError):
                raise example
        yield batch


def _noted(keys: Iterable, sent: deque) -> Iterator:
    for own in keys:
        sent.append(own)
        yield own
