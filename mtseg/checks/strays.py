"""Find the part of a split's images that lies beyond nearly all of train in one measure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import betabinom, binom

from mtseg.evaluation.bootstrap import proportion

ENDS, WIDER = (0.005, 0.995), 0.25  # quantiles of train, and share of their distance by which they are exceeded
FACTOR = 1.15  # by which they are exceeded at least, if values are compared as ratios
FEWEST_OF_TRAIN = 20  # images below which train shows no range
FEWEST, SHARE = 3, 0.05  # images that are reported at least; share of the images, which their interval must reach
LEVEL = 0.002  # chance of a false alarm in one measure
EXAMPLES = 5  # file names in a finding


def usual(values: np.ndarray, least: float | None = None) -> tuple[float, float]:
    """The range of a measure in train, widened. Without bounds if train has too few images. least: by which it is
    widened; None: values are compared as ratios."""
    values = values[np.isfinite(values)]
    if len(values) < FEWEST_OF_TRAIN:
        return -np.inf, np.inf
    if least is None:
        low, high = np.quantile(np.log(values + 1), ENDS)
        room = max(WIDER * (high - low), np.log(FACTOR))
        return float(np.exp(low - room) - 1), float(np.exp(high + room) - 1)
    low, high = np.quantile(values, ENDS)
    room = max(WIDER * (high - low), least)
    return float(low - room), float(high + room)


def a_part(found: int, images: int, chance: float, *, level: float = LEVEL) -> bool:
    """Whether so many images may be `SHARE` of all or more, and are more than chance finds."""
    return _enough(found, images) and bool(binom.sf(found - 1, images, chance) < level)


def more(found: int, images: int, there: int, known: int, *, level: float = LEVEL) -> bool:
    """The same, if chance is seen on the `known` images of another split, of which `there` are found. With images of
    one kind, found is beta-binomial: few known images say little about a small chance."""
    return _enough(found, images) and bool(betabinom.sf(found - 1, images, there + 1, known - there) < level)


def _enough(found: int, images: int) -> bool:
    return found >= FEWEST and proportion(np.arange(images) < found).high >= SHARE


def described(names: Sequence[str], count: int, split: str) -> str:
    """Share of the images with its interval, and some of their files. count: of all images."""
    share = proportion(np.arange(count) < len(names))
    return f"{share.text(0, 100)} % of the {split} images ({named(names)})"


def named(names: Sequence[str]) -> str:
    """Some of the files."""
    return ", ".join(names[:EXAMPLES]) + " ..." * (len(names) > EXAMPLES)
