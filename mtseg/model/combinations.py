"""One softmax over the combinations of labels that training shows, in place of a softmax for each head by itself.

A combination's logit is the sum of the heads' logits for its labels, so that what is learnt of `red` serves everything
red; a single no-object, the main head's last output, stands against all combinations. One that training lacks weighs
`unseen` against 1: a prior, in training and inference alike, that the world seldom shows what the data never did.
A structured output layer as in label relation graphs (Deng et al., ECCV 2014), with a weight where those forbid.

R: rows of whatever shape, M picked ones. T tasks, K_t classes of a task, S combinations seen, Q queries, N instances.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from mtseg.core.errors import UserError
from mtseg.core.params import Model, Task

NEVER = -1e4  # a logit of probability 0 whose gradient is 0, not nan as that of -inf


@dataclass(frozen=True)
class Combinations:
    """seen: class indices [S, T], distinct. unseen: weight of every other combination, above 0, at most 1."""

    seen: Tensor
    unseen: float

    def read(self, logits: Sequence[Tensor]) -> Reading:
        """logits: each task's head's, [R, K_t], no-object the main one's last."""
        heads = (logits[0][..., :-1], *logits[1:])
        sums_RS = sum(head[..., self.seen[:, t]] for t, head in enumerate(heads))
        return Reading(self, heads, logits[0][..., -1], sums_RS)


@dataclass(frozen=True)
class Reading:
    """What rows of heads' outputs say of combinations. A mass is the logarithm of a weighted sum of exp(logit)."""

    of: Combinations
    heads: tuple[Tensor, ...]
    no_object: Tensor
    sums_RS: Tensor

    @property
    def mass(self) -> Tensor:
        """[R]: of all combinations."""
        return self._mixed(self.sums_RS.logsumexp(-1), sum(head.logsumexp(-1) for head in self.heads))

    @cached_property
    def total(self) -> Tensor:
        """[R]: of all combinations and no-object; what makes a mass a log-probability."""
        return torch.logaddexp(self.mass, self.no_object)

    def _mixed(self, seen: Tensor, every: Tensor) -> Tensor:
        """Every combination has the weight `unseen`, one that is seen the rest up to 1 besides."""
        rest = 1 - self.of.unseen
        every = every + math.log(self.of.unseen)
        return torch.logaddexp(seen + math.log(rest), every) if rest else every

    def prefixes(self, labels_RT: Tensor) -> Tensor:
        """[R, T + 1]: masses of the combinations with a row's first 0, 1, ... T labels. A label -1 may be any."""
        agree_RS = torch.ones_like(self.sums_RS, dtype=torch.bool)
        every = sum(head.logsumexp(-1) for head in self.heads)
        masses = [self.mass]
        for t, head in enumerate(self.heads):
            label = labels_RT[..., t]
            agree_RS = agree_RS & ((label < 0)[..., None] | (self.of.seen[:, t] == label[..., None]))
            own = head.gather(-1, label.clamp(min=0)[..., None])[..., 0]
            every = every + torch.where(label < 0, 0, own - head.logsumexp(-1))
            masses.append(self._mixed(self.sums_RS.masked_fill(~agree_RS, NEVER).logsumexp(-1), every))
        return torch.stack(masses, dim=-1)

    def steps(self, rows: Tensor | tuple[Tensor, ...], labels_MT: Tensor) -> Tensor:
        """[M, T]: log-probabilities of the labels of M rows, picked as by indexing, each given those before it. A label
        -1 may be any."""
        masses_MT = self[rows].prefixes(labels_MT)
        steps_MT = masses_MT.diff(dim=-1)
        return torch.cat([(masses_MT[:, 1] - self.total[rows])[:, None], steps_MT[:, 1:]], dim=-1)

    def probabilities(self, labels_BNT: Tensor) -> list[Tensor]:
        """Of rows [L, B, Q] and the instances of each of B pictures: T x [L, B, Q, N], the probability of each of an
        instance's labels given those before it. A label -1 may be any."""
        total = self.total[..., None]
        seen_LBQS = (self.sums_RS - total).exp() * (1 - self.of.unseen)
        agree_BNS = torch.ones(*labels_BNT.shape[:2], len(self.of.seen), dtype=torch.bool, device=labels_BNT.device)
        every = sum(head.logsumexp(-1) for head in self.heads)[..., None] + math.log(self.of.unseen) - total
        found, before = [], self.no_object.new_ones(())
        for t, head in enumerate(self.heads):
            label_BN = labels_BNT[..., t]
            agree_BNS = agree_BNS & ((label_BN < 0)[..., None] | (self.of.seen[:, t] == label_BN[..., None]))
            index = label_BN.clamp(min=0)[None, :, None].expand(len(head), -1, head.shape[2], -1)
            own = head.gather(-1, index) - head.logsumexp(-1, keepdim=True)
            every = every + torch.where((label_BN < 0)[None, :, None], 0, own)
            first = seen_LBQS @ agree_BNS.to(seen_LBQS).transpose(1, 2) + every.exp()
            found.append(first / before.clamp(min=torch.finfo(first.dtype).tiny))
            before = first
        return found

    def marginals(self) -> list[Tensor]:
        """T x [R, K_t], as logits of mean 0: each task's own label, whatever the others; no-object the main one's last.
        For reading, not for training."""
        highest = self.sums_RS.amax(-1, keepdim=True) if self.sums_RS.shape[-1] else self.no_object[..., None]
        seen_RS = (self.sums_RS - highest).exp()
        every = sum(head.logsumexp(-1, keepdim=True) for head in self.heads)
        found = []
        for t, head in enumerate(self.heads):
            of_class_SK = torch.nn.functional.one_hot(self.of.seen[:, t], head.shape[-1]).to(seen_RS)
            seen = (seen_RS @ of_class_SK).log() + highest
            logits = self._mixed(seen, every - head.logsumexp(-1, keepdim=True) + head)
            if not t:
                logits = torch.cat([logits, self.no_object[..., None]], dim=-1)
            found.append(logits - logits.mean(-1, keepdim=True))
        return found

    def likely(self, most: int) -> tuple[Tensor, Tensor, Tensor]:
        """Of rows [Q], the `most` likeliest pairs of a query and a combination, best first: query [k], labels [k, T],
        log-probabilities [k, T], each of a label given those before it. Besides what was seen, each main class comes
        with the likeliest of the further labels."""
        Q, classes = self.heads[0].shape
        further = [head.argmax(-1, keepdim=True).expand(-1, classes) for head in self.heads[1:]]
        main = torch.arange(classes, device=self.no_object.device).expand(Q, -1)
        free_QKT = torch.stack([main, *further], dim=-1)
        value = sum(head.gather(-1, free_QKT[..., t]) for t, head in enumerate(self.heads)) + math.log(self.of.unseen)
        known = (free_QKT[:, :, None] == self.of.seen).all(-1).any(-1)
        value = torch.cat([self.sums_RS, value.masked_fill(known, -math.inf)], dim=-1) - self.total[:, None]
        labels_QCT = torch.cat([self.of.seen.expand(Q, -1, -1), free_QKT], dim=1)
        best, index = value.flatten().topk(min(most, int(value.isfinite().sum())))
        query = index // value.shape[1]
        labels_kT = labels_QCT.flatten(0, 1)[index]
        return query, labels_kT, self.steps(query, labels_kT)

    def __getitem__(self, rows: Tensor | tuple[Tensor, ...]) -> Reading:
        return Reading(self.of, tuple(head[rows] for head in self.heads), self.no_object[rows], self.sums_RS[rows])


def combinations(seen: Iterable[Sequence[int]], tasks: Sequence[Task], model: Model) -> list[tuple[int, ...]]:
    """Those seen and what a horizontal flip makes of them, sorted: class indices of every task. Empty where heads
    are apart. Raises UserError when none was seen."""
    if len(tasks) == 1 or model.unseen_combinations == 1:
        return []
    flipped = [task.flipped() for task in tasks]
    given = {tuple(labels) for labels in seen}
    mirrored = {tuple(flip[label] for flip, label in zip(flipped, labels, strict=True)) for labels in given}
    if not given:
        raise UserError(
            "no object in train has a label of every task, and model.unseen_combinations is "
            f"{model.unseen_combinations:g}: set it to 1 (a softmax for each head), or label some objects whole"
        )
    return sorted(given | mirrored)
