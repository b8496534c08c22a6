"""One softmax over combinations of labels, in place of one for each task.

The logit of a combination is the sum of the tasks' logits of its labels, so that combinations share what is learned of
a label. One no-object, the main task's last output, is an alternative to all combinations. In training and inference,
the exponential of a logit is weighted with 1 for combinations in the training data ("seen") and with `unseen` for
others: a structured output layer as in label relation graphs (Deng et al., ECCV 2014), with a weight instead of a
prohibition.

R rows of any shape, M selected rows, T tasks, K_t classes of a task, S seen combinations, L decoder layers, B images,
Q queries, N instances, k detections.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from mtseg.core.errors import UserError
from mtseg.core.params import Model, Task, with_flips
from mtseg.core.tables import UNLABELLED
from mtseg.model.heads._base import Candidates, Head, Logits

NEVER = -1e4  # a logit of probability 0 whose gradient is 0, not nan as that of -inf


class Combinations(Head):
    """seen: class indices [S, T], distinct. unseen: weight of other combinations, 0 < unseen <= 1."""

    def __init__(self, tasks: Sequence[Task], seen: Sequence[Sequence[int]], *, unseen: float):
        super().__init__(tasks)
        self.unseen = unseen
        self.register_buffer("seen", torch.tensor(seen), persistent=False)

    def distribution(self, logits: Logits) -> Distribution:
        main, *further = (logits[task.name] for task in self.tasks)
        classes = (main[..., :-1], *further)
        sums_RS = sum(x[..., self.seen[:, t]] for t, x in enumerate(classes))
        return Distribution(self.seen, self.unseen, classes, main[..., -1], sums_RS)

    def class_logits(self, logits: Logits) -> dict[str, Tensor]:
        """Logits of the marginal probabilities, with mean 0; not used by the losses."""
        marginals = self.distribution(logits).marginals()
        return {task.name: x for task, x in zip(self.tasks, marginals, strict=True)}

    def losses(
        self, logits: Logits, labels_MT: Tensor, matched: tuple[Tensor, Tensor, Tensor], *, no_object: float
    ) -> dict[str, Tensor]:
        """Negative log-probabilities by the chain rule. Main task: of the label, or of no-object for unmatched queries.
        Further tasks: of the label given the labels of the preceding tasks, for matched queries. A missing label has no
        loss, and is not conditioned on."""
        distribution = self.distribution(logits)
        total_LBQ = distribution.total
        terms_MT = distribution.conditional(matched, labels_MT)
        zero = total_LBQ.new_zeros(len(total_LBQ))
        found = {}
        for t, task in enumerate(self.tasks):
            weight_M = self.class_weights(t, total_LBQ)[labels_MT[:, t].clamp(min=0)] * (labels_MT[:, t] >= 0)
            found[task.name] = zero.index_add(0, matched[0], -weight_M * terms_MT[:, t])
        unmatched_LBQ = (total_LBQ - distribution.no_object).index_put(matched, total_LBQ.new_zeros(()))
        main = self.tasks[0].name
        return found | {main: found[main] + no_object * unmatched_LBQ.flatten(1).sum(1)}

    def probabilities(self, logits: Logits, labels_BNT: Tensor) -> list[Tensor]:
        """Probability of each label given the preceding ones: their product is the probability of all."""
        return self.distribution(logits).probabilities(labels_BNT)

    def candidates(self, logits: Logits, most: int) -> Candidates:
        """With the field `probabilities` [k, T], of each label given the preceding ones."""
        query, labels, logarithms = self.distribution(logits).likeliest(most)
        return Candidates(query, labels, logarithms.sum(-1).exp(), {"probabilities": logarithms.exp()})

    def logits_of(self, labels_T: Tensor, strength: float) -> dict[str, Tensor]:
        """With `strength` increased, so that an unseen combination too is more probable than all others together."""
        others = sum(math.log(task.num_classes) for task in self.tasks) - math.log(self.unseen)
        return super().logits_of(labels_T, strength + others)


@dataclass(frozen=True)
class Distribution:
    """Distribution over combinations and no-object, for rows of logits. A mass is the log of a weighted sum of
    exp(logit).

    classes: logits, T x [R, K_t]. no_object: logit [R]. sums_RS: logit of each seen combination.
    """

    seen: Tensor
    unseen: float
    classes: tuple[Tensor, ...]
    no_object: Tensor
    sums_RS: Tensor

    @property
    def mass(self) -> Tensor:
        """[R]: mass of all combinations."""
        return self._mixed(self.sums_RS.logsumexp(-1), sum(x.logsumexp(-1) for x in self.classes))

    @cached_property
    def total(self) -> Tensor:
        """[R]: mass of all combinations and no-object. A mass minus `total` is a log-probability."""
        return torch.logaddexp(self.mass, self.no_object)

    def _mixed(self, seen: Tensor, every: Tensor) -> Tensor:
        """Mass from that of the seen combinations (added with weight 1 - unseen) and of all (with weight unseen)."""
        rest = 1 - self.unseen
        every = every + math.log(self.unseen)
        return torch.logaddexp(seen + math.log(rest), every) if rest else every

    def prefixes(self, labels_RT: Tensor) -> Tensor:
        """[R, T + 1]: mass of the combinations with a row's first 0, 1, ... T labels; a missing label is any label."""
        agree_RS = torch.ones_like(self.sums_RS, dtype=torch.bool)
        every = sum(x.logsumexp(-1) for x in self.classes)
        masses = [self.mass]
        for t, x in enumerate(self.classes):
            label = labels_RT[..., t]
            missing = label == UNLABELLED
            agree_RS = agree_RS & (missing[..., None] | (self.seen[:, t] == label[..., None]))
            own = x.gather(-1, label.clamp(min=0)[..., None])[..., 0]
            every = every + torch.where(missing, 0, own - x.logsumexp(-1))
            masses.append(self._mixed(self.sums_RS.masked_fill(~agree_RS, NEVER).logsumexp(-1), every))
        return torch.stack(masses, dim=-1)

    def conditional(self, rows: Tensor | tuple[Tensor, ...], labels_MT: Tensor) -> Tensor:
        """[M, T]: log-probability of each label given the preceding ones; 0 for a missing label. rows: index of M
        rows."""
        masses_MT = self[rows].prefixes(labels_MT)
        steps_MT = masses_MT.diff(dim=-1)
        return torch.cat([(masses_MT[..., 1] - self.total[rows])[..., None], steps_MT[..., 1:]], dim=-1)

    def probabilities(self, labels_BNT: Tensor) -> list[Tensor]:
        """T x [L, B, Q, N]: probability of each label of an image's instances given the preceding ones. Rows [L, B,
        Q]."""
        total = self.total[..., None]
        seen_LBQS = (self.sums_RS - total).exp() * (1 - self.unseen)
        agree_BNS = torch.ones(*labels_BNT.shape[:2], len(self.seen), dtype=torch.bool, device=labels_BNT.device)
        every = sum(x.logsumexp(-1) for x in self.classes)[..., None] + math.log(self.unseen) - total
        found, before = [], self.no_object.new_ones(())
        for t, x in enumerate(self.classes):
            label_BN = labels_BNT[..., t]
            missing_BN = label_BN == UNLABELLED
            agree_BNS = agree_BNS & (missing_BN[..., None] | (self.seen[:, t] == label_BN[..., None]))
            index = label_BN.clamp(min=0)[None, :, None].expand(len(x), -1, x.shape[2], -1)
            own = x.gather(-1, index) - x.logsumexp(-1, keepdim=True)
            every = every + torch.where(missing_BN[None, :, None], 0, own)
            first = seen_LBQS @ agree_BNS.to(seen_LBQS).transpose(1, 2) + every.exp()
            found.append(first / before.clamp(min=torch.finfo(first.dtype).tiny))
            before = first
        return found

    def marginals(self) -> list[Tensor]:
        """T x [R, K_t]: logits, with mean 0, of the marginal probabilities of each task's classes; the main task has
        no-object as the last."""
        highest = self.sums_RS.amax(-1, keepdim=True) if self.sums_RS.shape[-1] else self.no_object[..., None]
        seen_RS = (self.sums_RS - highest).exp()
        every = sum(x.logsumexp(-1, keepdim=True) for x in self.classes)
        found = []
        for t, x in enumerate(self.classes):
            of_class_SK = torch.nn.functional.one_hot(self.seen[:, t], x.shape[-1]).to(seen_RS)
            seen = (seen_RS @ of_class_SK).log() + highest
            logits = self._mixed(seen, every - x.logsumexp(-1, keepdim=True) + x)
            if not t:
                logits = torch.cat([logits, self.no_object[..., None]], dim=-1)
            found.append(logits - logits.mean(-1, keepdim=True))
        return found

    def likeliest(self, most: int) -> tuple[Tensor, Tensor, Tensor]:
        """The at most `most` pairs of a query and a combination with the highest probability in each image, best first:
        query [B, k], labels [B, k, T], log-probabilities [B, k, T] of each label given the preceding ones. Rows are
        [B, Q]. Considered are the seen combinations, and for each main class the one with the most probable labels of
        the further tasks. k: `most`, or as many as every image has."""
        B, Q, classes = self.classes[0].shape
        device = self.no_object.device
        further = [x.argmax(-1, keepdim=True).expand(-1, -1, classes) for x in self.classes[1:]]
        main = torch.arange(classes, device=device).expand(B, Q, -1)
        free_BQKT = torch.stack([main, *further], dim=-1)
        value = sum(x.gather(-1, free_BQKT[..., t]) for t, x in enumerate(self.classes)) + math.log(self.unseen)
        known = (free_BQKT[..., None, :] == self.seen).all(-1).any(-1)
        value = torch.cat([self.sums_RS, value.masked_fill(known, -math.inf)], dim=-1) - self.total[..., None]
        labels_BQCT = torch.cat([self.seen.expand(B, Q, -1, -1), free_BQKT], dim=2)
        index = value.flatten(1).topk(min(most, Q * max(len(self.seen), classes))).indices  # that many are finite
        image, query = torch.arange(B, device=device)[:, None], index // value.shape[2]
        labels_BkT = labels_BQCT.flatten(1, 2)[image, index]
        return query, labels_BkT, self.conditional((image, query), labels_BkT)

    def __getitem__(self, rows: Tensor | tuple[Tensor, ...]) -> Distribution:
        classes = tuple(x[rows] for x in self.classes)
        return Distribution(self.seen, self.unseen, classes, self.no_object[rows], self.sums_RS[rows])


def seen_combinations(counted: Iterable[Sequence[int]], tasks: Sequence[Task], model: Model) -> list[tuple[int, ...]]:
    """The combinations of class indices in the training data and those that a horizontal flip makes of them, sorted.
    Empty if each task has its own softmax. counted: the combinations in train. Raises UserError if there are none."""
    if len(tasks) == 1 or model.unseen_combinations == 1:
        return []
    seen = with_flips(counted, tasks)
    if not seen:
        raise UserError(
            "no object in train has a label of every task, and model.unseen_combinations: "
            f"{model.unseen_combinations:g} needs such objects: set it to 1 (a softmax for each task), or give some "
            "objects a label of every task"
        )
    return sorted(seen)
