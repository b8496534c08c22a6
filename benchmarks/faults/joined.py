"""Faults that one softmax over combinations of labels makes possible."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from benchmarks.faults.case import JOINED, Fault
from benchmarks.faults.patches import everywhere, replaced
from mtseg.inference import predictor as predict
from mtseg.model import weights
from mtseg.model.heads import Combinations, Head, Heads, Softmax
from mtseg.model.heads.combinations import seen_combinations
from mtseg.model.mask2former import Mask2Former


def exchanged(real: Callable) -> Callable:
    """The first two tasks, which have as many classes, are taken for each other."""
    return lambda *given: sorted((b, a, *rest) for a, b, *rest in real(*given))


def every_other(real: Callable) -> Callable:
    return lambda *given: real(*given)[::2]


def heads_exchanged(real: Callable) -> Callable:
    """The losses read the first two tasks' logits for each other; what is detected does not."""

    def losses(self: Combinations, logits: dict[str, torch.Tensor], *args: Any, **kwargs: Any) -> Any:
        one, other = (task.name for task in self.tasks[:2])
        no_object = logits[one][..., -1:]
        exchanged = {one: torch.cat([logits[other], no_object], -1), other: logits[one][..., :-1]}
        return real(self, logits | exchanged, *args, **kwargs)

    return losses


def next_pair(real: Callable) -> Callable:
    """The labels of a combination go to the mask of the next of the likeliest pairs."""

    def candidates(self: Combinations, logits: dict[str, torch.Tensor], most: int) -> Any:
        found = real(self, logits, most)
        return replace(found, labels=found.labels.roll(1, 0))

    return candidates


def unsaid(real: Callable) -> Callable:
    def save(path: Any, model: Any, metadata: dict[str, Any]) -> None:
        real(path, model, {name: value for name, value in metadata.items() if name != "seen"})

    return save


def every_third(head: Combinations) -> list[Head]:
    return [Combinations(head.tasks, head.seen[::3].tolist(), unseen=head.unseen)]


def loaded(change: Callable[[Combinations], list[Head]]) -> Callable:
    """The trained network with other heads in the place of those it was trained with."""

    def make(real: Callable) -> Callable:
        def load_model(*args: Any, **kwargs: Any) -> Mask2Former:
            network = real(*args, **kwargs)
            network.heads = Heads(change(network.heads[0]))
            return network

        return load_model

    return replaced(predict, "load_model", make)


def made_by(change: Callable[[Callable], Callable]) -> Callable:
    return lambda: everywhere(seen_combinations, change)


HALF = JOINED | {"generate.unseen": 24}  # of the combinations train shows half: or else any order is the same
SHORT = {"solver.max_iter": 10, "solver.eval_period": 10, "solver.warmup": 2}  # it is refused whatever was learnt
PRIOR = ("prior_wrong",)
OTHER_QUERY = ("labels_of_other_query",)
FAULTS = (
    Fault("combinations seen: two tasks exchanged", changes=HALF, causes=PRIOR, code=made_by(exchanged)),
    Fault("combinations seen: every other is lost", changes=JOINED, causes=PRIOR, code=made_by(every_other)),
    Fault("combinations: the losses read two heads for each other", changes=JOINED,
          causes=("loss_targets", "labels_of_other_task"), code=replaced(Combinations, "losses", heads_exchanged)),
    Fault("combinations: labels go to the next mask, seen before training", number="F12", changes=JOINED,
          causes=OTHER_QUERY, code=replaced(Combinations, "candidates", next_pair)),
    Fault("combinations: labels go to the next mask at prediction", number="F12", since="predict", changes=JOINED,
          causes=OTHER_QUERY, code=replaced(Combinations, "candidates", next_pair)),
    Fault("combinations: the checkpoint does not say which were seen", since="training", changes=JOINED | SHORT,
          says="does not say which combinations of labels", code=replaced(weights, "save", unsaid)),
    Fault("combinations: prediction knows of none, heads are apart", since="predict", changes=JOINED, causes=PRIOR,
          code=loaded(lambda head: [Softmax([task]) for task in head.tasks])),
    Fault("combinations: prediction has those of other data", since="predict", changes=JOINED, causes=PRIOR,
          code=loaded(every_third)),
)  # fmt: skip
