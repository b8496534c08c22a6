"""Faults that one softmax over combinations of labels makes possible."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from benchmarks.faults.case import JOINED, Fault
from benchmarks.faults.patches import everywhere, replaced
from mtseg.inference import predictor as predict
from mtseg.model import combinations, losses, weights
from mtseg.model.combinations import Reading
from mtseg.model.mask2former import Mask2Former


def exchanged(real: Callable) -> Callable:
    """The first two tasks, which have as many classes, are taken for each other."""
    return lambda *given: sorted((b, a, *rest) for a, b, *rest in real(*given))


def every_other(real: Callable) -> Callable:
    return lambda *given: real(*given)[::2]


def heads_exchanged(real: Callable) -> Callable:
    """The losses read the first two heads for each other; what is detected does not."""

    def combined_losses(reading: Reading, *args: Any, **kwargs: Any) -> Any:
        one, other, *rest = reading.heads
        return real(
            reading.of.read([torch.cat([other, reading.no_object[..., None]], -1), one, *rest]), *args, **kwargs
        )

    return combined_losses


def next_pair(real: Callable) -> Callable:
    """The labels of a combination go to the mask of the next of the likeliest pairs."""

    def likely(self: Reading, most: int) -> Any:
        query, labels, logarithms = real(self, most)
        return query, labels.roll(1, 0), logarithms

    return likely


def unsaid(real: Callable) -> Callable:
    def save(path: Any, model: Any, metadata: dict[str, Any]) -> None:
        real(path, model, {name: value for name, value in metadata.items() if name != "seen"})

    return save


def loaded(seen: Callable[[torch.Tensor], torch.Tensor | None]) -> Callable:
    """The trained network with other combinations in the place of those it was trained with."""

    def make(real: Callable) -> Callable:
        def load_model(*args: Any, **kwargs: Any) -> Mask2Former:
            network = real(*args, **kwargs)
            network.decoder.seen = seen(network.decoder.seen)
            return network

        return load_model

    return replaced(predict, "load_model", make)


def made_by(change: Callable[[Callable], Callable]) -> Callable:
    return lambda: everywhere(combinations.combinations, change)


HALF = JOINED | {"generate.unseen": 24}  # of the combinations train shows half: or else any order is the same
SHORT = {"solver.max_iter": 10, "solver.eval_period": 10, "solver.warmup": 2}  # it is refused whatever was learnt
PRIOR = ("prior_wrong",)
OTHER_QUERY = ("labels_of_other_query",)
FAULTS = (
    Fault("combinations seen: two tasks exchanged", changes=HALF, causes=PRIOR, code=made_by(exchanged)),
    Fault("combinations seen: every other is lost", changes=JOINED, causes=PRIOR, code=made_by(every_other)),
    Fault("combinations: the losses read two heads for each other", changes=JOINED,
          causes=("loss_targets", "labels_of_other_task"), code=replaced(losses, "combined_losses", heads_exchanged)),
    Fault("combinations: labels go to the next mask, seen before training", number="F12", changes=JOINED,
          causes=OTHER_QUERY, code=replaced(Reading, "likely", next_pair)),
    Fault("combinations: labels go to the next mask at prediction", number="F12", since="predict", changes=JOINED,
          causes=OTHER_QUERY, code=replaced(Reading, "likely", next_pair)),
    Fault("combinations: the checkpoint does not say which were seen", since="training", changes=JOINED | SHORT,
          says="does not say which combinations of labels", code=replaced(weights, "save", unsaid)),
    Fault("combinations: prediction knows of none, heads are apart", since="predict", changes=JOINED, causes=PRIOR,
          code=loaded(lambda seen: None)),
    Fault("combinations: prediction has those of other data", since="predict", changes=JOINED, causes=PRIOR,
          code=loaded(lambda seen: seen[::3])),
)  # fmt: skip
