"""One softmax over combinations of labels, compared with explicit sums over all combinations."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch

from mtseg.core.errors import UserError
from mtseg.model.heads import Combinations, Heads, build
from mtseg.model.heads.combinations import seen_combinations
from mtseg.model.losses import losses, normaliser
from mtseg.model.matching import Target, match, matching_cost
from tests import tiny
from tests.scenes import make_tasks

LOSS = tiny.PARAMS.loss
ONE = [task.model_dump() for task in make_tasks(1)]
TASKS = make_tasks(3, background=False)
SEEN = [(0, 0, 0), (0, 1, 2), (1, 0, 1), (2, 1, 0)]


def written_out(logits, unseen):
    """{combination, or None for no-object: log-probability} of one row of logits."""
    sizes = [len(logits[0]) - 1, *map(len, logits[1:])]
    values = {}
    for labels in product(*map(range, sizes)):
        weight = 1.0 if labels in SEEN else unseen
        values[labels] = sum(x[label] for x, label in zip(logits, labels, strict=True)) + torch.tensor(weight).log()
    values[None] = logits[0][-1]
    total = torch.stack(list(values.values())).logsumexp(0)
    return {key: value - total for key, value in values.items()}


def rows(*shape, seed=0):
    draw = torch.Generator().manual_seed(seed)
    sizes = Heads([Combinations(TASKS, SEEN, unseen=1)]).outputs()
    return {name: torch.randn(*shape, n, generator=draw, dtype=torch.float64) * 3 for name, n in sizes.items()}


def starts_with(labels, prefix):
    return labels is not None and all(b in (-1, a) for a, b in zip(labels, prefix, strict=False))


@pytest.mark.parametrize("unseen", [0.01, 0.5, 1.0])
def test_masses_probabilities_and_marginals_are_the_sums_over_all_combinations(unseen):
    head = Combinations(TASKS, SEEN, unseen=unseen)
    logits = rows(1, 1, 5)
    wanted = [written_out([x[0, 0, q] for x in logits.values()], unseen) for q in range(5)]
    distribution = head.distribution(logits)
    labels = torch.tensor([[0, 1, 2], [0, 1, 1], [1, -1, 1], [2, 1, -1]])
    prefixes = distribution[0, 0, :4].prefixes(labels) - distribution.total[0, 0, :4, None]
    of_instances = head.probabilities(logits, labels[None])
    for t in range(4):
        for q in range(5):
            for n, own in enumerate(labels.tolist()):
                value = sum(float(p.exp()) for key, p in wanted[q].items() if starts_with(key, own[:t]))
                if q == n:
                    assert float(prefixes[n, t].exp()) == pytest.approx(value)
                if t:
                    chained = math.prod(float(p[0, 0, q, n]) for p in of_instances[:t])
                    assert chained == pytest.approx(value)
    for t, own in enumerate(head.class_logits(logits).values()):
        chances = own[0, 0].softmax(-1)
        assert torch.allclose(own.mean(-1), own.new_zeros(1, 1, 5), atol=1e-9)
        for q in range(5):
            sums = [sum(float(p.exp()) for key, p in wanted[q].items() if key and key[t] == c) for c in (0, 1)]
            whole = 1.0 if not t else 1 - float(wanted[q][None].exp())
            assert chances[q, :2].tolist() == pytest.approx([value / whole for value in sums])


def test_the_likeliest_answers_are_those_seen_and_one_unseen_of_each_main_class():
    head = Combinations(TASKS, SEEN, unseen=0.2)
    logits = rows(2, 3)
    query, labels, logarithms = head.distribution(logits).likeliest(100)
    assert query.shape == (2, 3 * len(SEEN)), "as many as there are at least"
    for b in range(2):
        wanted = {}
        for q in range(3):
            own = [x[b, q] for x in logits.values()]
            free = {(c, *(int(x.argmax()) for x in own[1:])) for c in range(3)}
            values = written_out(own, 0.2)
            wanted |= {(q, *key): float(values[key]) for key in {*SEEN, *free}}
        best = sorted(wanted, key=wanted.get, reverse=True)[: query.shape[1]]
        assert [(q, *own) for q, own in zip(query[b].tolist(), labels[b].tolist(), strict=True)] == best
        assert logarithms[b].sum(-1).tolist() == pytest.approx([wanted[key] for key in best])
        assert (logarithms[b] <= 1e-9).all()
    assert head.candidates(logits, 4).query.shape == (2, 4)


def test_losses_and_costs_are_the_chain_rule_of_the_softmax():
    network = tiny.network(TASKS, seen=SEEN, model={"unseen_combinations": 0.1}).eval()
    batch = [tiny.example(TASKS, 2, seed=seed) for seed in range(2)]
    with torch.no_grad():
        output = network.queries(batch)
    labels = torch.tensor([[0, 1, 2], [1, -1, 1]])
    targets = [Target(one["instances"].gt_masks.tensor, labels) for one in batch]
    torch.manual_seed(0)
    matches = match(output, targets, heads=network.heads, loss=LOSS)
    norm = normaliser([labels, labels], tasks=TASKS, num_queries=network.num_queries, loss=LOSS)
    torch.manual_seed(0)
    found = losses(output, targets, heads=network.heads, loss=LOSS, norm=norm)

    matched = {}
    for layer, b, q, n in zip(matches.layer, matches.image, matches.query, matches.instance, strict=True):
        matched[int(layer), int(b), int(q)] = labels[n].tolist()
    L, B, Q, _ = output.logits["shape"].shape
    for layer in range(L):
        sums = dict.fromkeys(output.logits, 0.0)
        for b, q in product(range(B), range(Q)):
            chances = written_out([x[layer, b, q] for x in output.logits.values()], 0.1)
            own = matched.get((layer, b, q))
            if own is None:
                sums["shape"] -= LOSS.no_object * float(chances[None])
                continue
            parts = [sum(float(p.exp()) for k, p in chances.items() if starts_with(k, own[:t])) for t in range(4)]
            parts[0] = 1.0
            for t, task in enumerate(TASKS):
                sums[task.name] -= float(torch.tensor(parts[t + 1] / parts[t]).log()) if own[t] >= 0 else 0.0
        for task in TASKS:
            wanted = sums[task.name] / norm.labels[task.name]
            assert found[f"loss_{task.name}_{layer}"].item() == pytest.approx(wanted, rel=1e-4)

    costs = []
    weights = 1.0, 0.5, 0.0
    weighted = tuple(task.model_copy(update={"match_weight": w}) for task, w in zip(TASKS, weights, strict=True))
    for given, scale in ((TASKS, 1.0), (weighted, 1.0), (TASKS, 0.0)):
        torch.manual_seed(0)
        given_loss = LOSS.model_copy(update={"labels": scale})
        heads = Heads([Combinations(given, SEEN, unseen=0.1)])
        costs.append(float(matching_cost(output, targets, heads=heads, loss=given_loss)[-1, 0, 3, 0]))
    chances = written_out([x[-1, 0, 3] for x in output.logits.values()], 0.1)
    firsts = [sum(float(p.exp()) for k, p in chances.items() if starts_with(k, [0, 1, 2][:t])) for t in (1, 2, 3)]
    assert costs[2] - costs[0] == pytest.approx(firsts[2] ** (1 / 3), rel=1e-3)
    assert costs[2] - costs[1] == pytest.approx((firsts[0] * (firsts[1] / firsts[0]) ** 0.5) ** (1 / 1.5), rel=1e-3)


def test_a_network_of_combinations_trains_and_answers_with_labels_that_were_seen():
    network = tiny.network(TASKS, seen=SEEN, model={"unseen_combinations": 1e-6})
    batch = [tiny.example(TASKS, 3, seed=seed) for seed in range(2)]
    sum(network(batch).values()).backward()
    for head in network.decoder.heads.values():
        assert head.weight.grad.abs().sum() > 0
    with torch.no_grad():
        found, _ = next(network.eval()(batch))
    confident = found.probabilities.prod(1) > 1e-4
    assert {tuple(own) for own in found.pred_labels[confident].tolist()} <= set(SEEN)
    assert torch.allclose(found.scores, found.probabilities.prod(1) * found.mask_quality, rtol=1e-4)


def test_a_mirrored_combination_counts_as_seen():
    tasks = make_tasks(4, background=False)
    side = tasks[-1].model_copy(update={"flip_pairs": (("left", "right"),)})
    model = tiny.params(model={"unseen_combinations": 0.1}, tasks=[task.model_dump() for task in tasks]).model
    assert seen_combinations([(0, 0, 0, 0)], (*tasks[:-1], side), model) == [(0, 0, 0, 0), (0, 0, 0, 1)]
    with pytest.raises(UserError, match="no object in train has a label of every task"):
        seen_combinations([], tasks, model)


def test_one_task_or_a_prior_of_one_gives_a_softmax_for_each_task():
    joined, apart = (tiny.params(model={"unseen_combinations": x}, tasks=ONE).model for x in (0.1, 1))
    assert seen_combinations([(0,), (1,)], make_tasks(1), joined) == []
    assert seen_combinations(SEEN, make_tasks(3), apart) == []
    assert [head.tasks for head in build(make_tasks(3), apart)] == [(task,) for task in make_tasks(3)]
