"""Faults of the softmax over combinations of labels."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from benchmarks.faults.case import COMBINED, Fault, Patch, changed, everywhere
from mtseg.inference import torch_network
from mtseg.model import weights
from mtseg.model.heads import Combinations, Head, Heads, Softmax
from mtseg.model.heads.combinations import seen_combinations
from mtseg.model.mask2former import Mask2Former


def exchanged(real: Callable, *given: Any) -> list:
    """Swap the first two tasks, which have equally many classes."""
    return sorted((b, a, *rest) for a, b, *rest in real(*given))


def every_other(real: Callable, *given: Any) -> list:
    return real(*given)[::2]


def heads_exchanged(real: Callable, self: Combinations, logits: dict, *args: Any, **kwargs: Any) -> Any:
    """Swap the logits of the first two tasks in the losses, but not in detection."""
    one, other = (task.name for task in self.tasks[:2])
    no_object = logits[one][..., -1:]
    swapped = {one: torch.cat([logits[other], no_object], -1), other: logits[one][..., :-1]}
    return real(self, logits | swapped, *args, **kwargs)


def next_pair(real: Callable, self: Combinations, logits: dict, most: int) -> Any:
    """Shift the labels of the candidates by one against their masks."""
    found = real(self, logits, most)
    return replace(found, labels=found.labels.roll(1, -2))


def not_recorded(real: Callable, path: Any, state: Any, metadata: str) -> None:
    real(path, state, json.dumps({name: value for name, value in json.loads(metadata).items() if name != "seen"}))


def every_third(head: Combinations) -> list[Head]:
    return [Combinations(head.tasks, head.seen[::3].tolist(), unseen=head.unseen)]


def loaded(change: Callable[[Combinations], list[Head]]) -> Patch:
    """Replace the heads of the trained network."""

    def load_model(real: Callable, *args: Any, **kwargs: Any) -> Mask2Former:
        network = real(*args, **kwargs)
        network.heads = Heads(change(network.heads[0]))
        return network

    return everywhere(torch_network.load_model, load_model)


HALF = COMBINED | {"generate.unseen": 24}  # with all combinations seen, exchanging tasks changes nothing
# rejected when loaded, so a short training is enough
FEW_STEPS = {"solver.max_iter": 10, "solver.eval_period": 10, "solver.warmup": 2}
PRIOR = ("prior_wrong",)
OTHER_QUERY = ("labels_of_other_query",)
FAULTS = (
    Fault("combinations seen: two tasks exchanged", changes=HALF, causes=PRIOR,
          code=everywhere(seen_combinations, exchanged)),
    Fault("combinations seen: every other is lost", changes=COMBINED, causes=PRIOR,
          code=everywhere(seen_combinations, every_other)),
    Fault("combinations: the losses read two heads for each other", changes=COMBINED,
          causes=("loss_targets", "labels_of_other_task"), code=changed(Combinations, "losses", heads_exchanged)),
    Fault("combinations: labels go to the next mask, seen before training", failure="label_readout", changes=COMBINED,
          causes=OTHER_QUERY, code=changed(Combinations, "candidates", next_pair)),
    Fault("combinations: labels go to the next mask at prediction", failure="label_readout", since="predict",
          changes=COMBINED, causes=OTHER_QUERY, code=changed(Combinations, "candidates", next_pair)),
    Fault("combinations: the checkpoint does not say which were seen", since="training", changes=COMBINED | FEW_STEPS,
          says="does not record which combinations of labels", code=changed(weights, "write", not_recorded)),
    Fault("combinations: prediction uses separate heads", since="predict", changes=COMBINED, causes=PRIOR,
          code=loaded(lambda head: [Softmax([task]) for task in head.tasks])),
    Fault("combinations: prediction has those of other data", since="predict", changes=COMBINED, causes=PRIOR,
          code=loaded(every_third)),
)  # fmt: skip
