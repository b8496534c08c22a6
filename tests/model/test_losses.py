"""Matching and losses, compared with hand-computed values, and errors for costs that are not finite."""

from __future__ import annotations

import math

import pytest
import torch

from mtseg.model.decoder import QueryOutput
from mtseg.model.heads import Heads, Softmax, build
from mtseg.model.losses import losses, mask_losses, normaliser
from mtseg.model.matching import Matches, Target, match, matching_cost
from mtseg.model.points import sample
from tests import tiny
from tests.scenes import make_tasks

COUNTS = pytest.mark.parametrize("count", [1, 3, 4])
LOSS = tiny.params(loss={"num_points": 400}).loss
BIG = 30.0


def softmax_heads(tasks):
    return Heads(Softmax([task]) for task in tasks)


def label_loss(logits, labels, matches, *, task):
    """Matches of one image and one layer."""
    matched = matches.layer, matches.image, matches.query
    return Softmax([task]).losses({task.name: logits}, labels[:, None], matched, no_object=0.1)[task.name]


def perfect(tasks, targets, queries=5, layers=2, flip=False):
    """An output whose query `n` (from the end if `flip`) predicts instance n; other queries predict no-object."""
    B, side = len(targets), tiny.SIDE // 4
    embed = torch.zeros(layers, B, queries, queries)
    features = torch.full((B, queries, side, side), -4.0)
    logits = {task.name: torch.zeros(layers, B, queries, task.num_outputs) for task in tasks}
    for b, target in enumerate(targets):
        embed[:, b] = torch.eye(queries)
        for n in range(queries):
            q = queries - 1 - n if flip else n
            if n < len(target.labels):
                inside = torch.nn.functional.interpolate(target.masks[n][None, None].float(), size=(side, side))[0, 0]
                features[b, q] = (inside * 2 - 1) * 4
            for t, task in enumerate(tasks):
                label = target.labels[n, t] if n < len(target.labels) else task.num_outputs - 1
                logits[task.name][:, b, q, label] = BIG
    return QueryOutput(logits, embed, features)


def scene(tasks, counts):
    examples = [tiny.example(tasks, count, seed=i)["instances"] for i, count in enumerate(counts)]
    return [Target(example.gt_masks.tensor, example.gt_labels) for example in examples]


@COUNTS
@pytest.mark.parametrize("background", [True, False])
def test_a_perfect_output_is_matched_right_at_a_loss_near_0(count, background):
    tasks = make_tasks(count, background)
    targets = scene(tasks, [3, 0, 2])
    output = perfect(tasks, targets, flip=True)
    found = match(output, targets, heads=softmax_heads(tasks), loss=LOSS)
    assert torch.equal(found.query, 4 - found.instance)
    assert [(int(layer), int(image)) for layer, image in zip(found.layer, found.image, strict=True)] == [
        (layer, image) for image, n in ((0, 3), (2, 2)) for layer in (0, 1) for _ in range(n)
    ]
    norm = normaliser([target.labels for target in targets], tasks=tasks, num_queries=5, loss=LOSS)
    values = losses(output, targets, heads=softmax_heads(tasks), loss=LOSS, norm=norm)
    assert all(value < 0.01 for name, value in values.items() if "mask" not in name and "dice" not in name)
    assert all(value < 5 for value in values.values())  # edges at stride 4 are not exact


@COUNTS
def test_matching_does_not_depend_on_the_order_of_the_ground_truth(count):
    tasks = make_tasks(count)
    targets = scene(tasks, [4])
    order = torch.tensor([2, 0, 3, 1])
    shuffled = [Target(targets[0].masks[order], targets[0].labels[order])]
    network = tiny.network(tasks)
    output = network.queries([tiny.example(tasks, 4)])
    pairs = []
    for given, back in ((targets, torch.arange(4)), (shuffled, order)):
        torch.manual_seed(0)
        found = match(output, given, heads=network.heads, loss=LOSS)
        triples = zip(found.layer.tolist(), found.query.tolist(), back[found.instance].tolist(), strict=True)
        pairs.append(sorted(triples))
    assert pairs[0] == pairs[1]


@COUNTS
def test_every_task_enters_the_matching_cost(count):
    """Of queries that differ only in the logits of one task, the one with the correct label is matched."""
    tasks = tuple(task.model_copy(update={"match_weight": 1 / (1 + t)}) for t, task in enumerate(make_tasks(count)))
    for t, task in enumerate(tasks):
        targets = scene(tasks, [1])
        output = perfect(tasks, targets)
        output.mask_features_BCHW[:] = output.mask_features_BCHW[:, :1].clone()
        for name in output.logits:
            output.logits[name][:] = 0
        label = int(targets[0].labels[0, t])
        output.logits[task.name][..., label] = -1.0
        output.logits[task.name][:, 0, 3, label] = 2.0
        assert set(match(output, targets, heads=softmax_heads(tasks), loss=LOSS).query.tolist()) == {3}
        labels = targets[0].labels.clone()
        labels[:, t] = -1  # a missing label must not count
        costs = []
        for given in (targets, [Target(targets[0].masks, labels)]):
            torch.manual_seed(0)  # the same points
            costs.append(matching_cost(output, given, heads=softmax_heads(tasks), loss=LOSS))
        own = output.logits[task.name].softmax(-1)[..., label, None]
        others = math.prod(other.num_outputs**-other.match_weight for other in tasks if other != task)
        rest = sum(other.match_weight for other in tasks if other != task)
        mean = (own**task.match_weight * others) ** (1 / (rest + task.match_weight))
        without = others ** (1 / rest) if rest else 1.0
        torch.testing.assert_close(costs[1] - costs[0], LOSS.labels * (mean - without), rtol=0, atol=1e-4)


@pytest.mark.parametrize("key", ["loss_weight", "match_weight"])
@pytest.mark.parametrize("seen", [(), [(0, 0, 0), (0, 1, 2), (1, 0, 1), (2, 1, 0)]])
def test_a_task_without_a_weight_does_not_enter_the_matching_cost(key, seen):
    tasks = make_tasks(3, background=not seen)
    model = tiny.params().model.model_copy(update={"unseen_combinations": 0.1})
    output = tiny.network(tasks).queries([tiny.example(tasks, 2)])
    costs = []
    for muted in ({key: 0.0}, {}):
        given = build((tasks[0], tasks[1].model_copy(update=muted), tasks[2]), model, seen)
        for label in (0, 1):
            torch.manual_seed(0)  # the same points
            target = Target(torch.ones(1, 64, 64, dtype=torch.bool), torch.tensor([[1, label, 1]]))
            costs.append(matching_cost(output, [target], heads=given, loss=LOSS))
    assert torch.equal(costs[0], costs[1]) and not torch.equal(costs[2], costs[3])


def test_cost_follows_the_formula():
    tasks = make_tasks(2)
    full = Target(torch.ones(1, 256, 256, dtype=torch.bool), torch.tensor([[1, -1]]))
    logit = 0.7
    output = QueryOutput(
        {task.name: torch.zeros(1, 1, 1, task.num_outputs) for task in tasks},
        torch.full((1, 1, 1, 1), logit), torch.ones(1, 1, 256, 256),
    )  # fmt: skip
    p = 1 / (1 + math.exp(-logit))
    points = LOSS.num_points
    bce, dice = -math.log(p), 1 - (2 * p * points + 1) / (p * points + points + 1)
    expected = LOSS.mask * bce + LOSS.dice * dice - LOSS.labels / tasks[0].num_outputs
    assert matching_cost(output, [full], heads=softmax_heads(tasks), loss=LOSS).item() == pytest.approx(
        expected, rel=0.02
    )  # outside the border masks are 0


def test_unmatched_queries_get_a_target_that_the_head_has():
    """With a background slot the last output, with its own weight; without it, or if unlabelled, no target."""
    none = torch.zeros(0, dtype=torch.long)
    empty = Matches(none, none, none, none)
    one = Matches(*(torch.zeros(1, dtype=torch.long) for _ in range(4)))
    for background in (True, False):
        task = make_tasks(2, background)[1]
        logits = torch.randn(1, 1, 3, task.num_outputs)
        logs = logits.log_softmax(-1)[0, 0]
        unmatched = -0.1 * logs[:, -1] if background else torch.zeros(3)
        assert label_loss(logits, none, empty, task=task).item() == pytest.approx(float(unmatched.sum()), abs=1e-5)
        labelled = label_loss(logits, torch.tensor([1]), one, task=task)
        assert labelled.item() == pytest.approx(float(-logs[0, 1] + unmatched[1:].sum()), abs=1e-5)
        unlabelled = label_loss(logits, torch.tensor([-1]), one, task=task)
        assert unlabelled.item() == pytest.approx(float(unmatched[1:].sum()), abs=1e-5)


@COUNTS
def test_normaliser_is_the_summed_weight_of_the_targets(count):
    for background in (True, False):
        tasks = make_tasks(count, background)
        labels = [torch.zeros(3, count, dtype=torch.long), torch.full((2, count), -1)]
        norm = normaliser(labels, tasks=tasks, num_queries=5, loss=LOSS)
        assert norm.masks == 5
        for task in tasks:
            assert norm.labels[task.name] == pytest.approx(3 + 0.1 * 5 * task.background)
        crowded = normaliser([torch.zeros(8, count, dtype=torch.long)], tasks=tasks, num_queries=5, loss=LOSS)
        assert crowded.masks == 8 and set(crowded.labels.values()) == {5}  # five of the eight find a query
        for few in (0, 1):  # nothing is divided by 0
            alone = normaliser([torch.zeros(few, count, dtype=torch.long)], tasks=tasks, num_queries=5, loss=LOSS)
            assert alone.masks == 1


@pytest.mark.parametrize("background", [True, False])
def test_a_class_weight_enters_the_loss_and_the_normaliser(background):
    task = make_tasks(2, background)[1]
    weighted = task.model_copy(update={"class_weights": {task.classes[1]: 5.0}})
    labels = torch.tensor([1, 0, -1])
    logits = torch.randn(1, 1, 4, task.num_outputs)
    index = torch.arange(3)
    matches = Matches(torch.zeros_like(index), torch.zeros_like(index), index, index)
    logs = logits.log_softmax(-1)[0, 0]
    empty = -0.1 * logs[3, -1] if background else 0.0
    for given, weight in ((task, 1.0), (weighted, 5.0)):
        found = label_loss(logits, labels, matches, task=given)
        assert found.item() == pytest.approx(float(-weight * logs[0, 1] - logs[1, 0] + empty), abs=1e-5)
        norm = normaliser([labels[:, None]], tasks=(given,), num_queries=4, loss=LOSS)
        assert norm.labels[task.name] == pytest.approx(weight + 1 + 0.1 * background)


@COUNTS
def test_parts_of_a_step_add_up_to_the_whole(count):
    """With the step's normaliser, label losses of its parts sum to those of the whole."""
    tasks = make_tasks(count)
    targets = scene(tasks, [3, 1])
    whole = perfect(tasks, targets)
    for logits in whole.logits.values():
        logits[:] = torch.randn(logits.shape, generator=torch.Generator().manual_seed(0))
    norm = normaliser([target.labels for target in targets], tasks=tasks, num_queries=5, loss=LOSS)
    parts = [
        QueryOutput(
            {name: x[:, b : b + 1] for name, x in whole.logits.items()},
            whole.mask_embed_LBQC[:, b : b + 1], whole.mask_features_BCHW[b : b + 1],
        ) for b in range(2)
    ]  # fmt: skip
    heads = softmax_heads(tasks)
    together = losses(whole, targets, heads=heads, loss=LOSS, norm=norm)
    apart = [losses(part, [targets[b]], heads=heads, loss=LOSS, norm=norm) for b, part in enumerate(parts)]
    for task in tasks:
        for layer in range(2):
            name = f"loss_{task.name}_{layer}"
            assert apart[0][name] + apart[1][name] == pytest.approx(together[name].item(), rel=1e-5)


@pytest.mark.parametrize("queries", [5, 2])  # as many as an image has instances, and fewer
def test_mask_losses_equal_a_loop_over_the_pairs(queries, monkeypatch):
    tasks = make_tasks(1)
    targets = scene(tasks, [3, 0, 5])
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(3, 8, 16, 16, generator=draw)
    logits = {task.name: torch.randn(3, 3, queries, task.num_outputs, generator=draw) for task in tasks}
    output = QueryOutput(logits, torch.randn(3, 3, queries, 8, generator=draw), features)
    matches = match(output, targets, heads=softmax_heads(tasks), loss=LOSS)
    points = torch.rand(len(matches.query), 50, 2, generator=draw)
    monkeypatch.setattr("mtseg.model.losses.uncertain_points", lambda *_, **__: points)
    norm = normaliser([target.labels for target in targets], tasks=tasks, num_queries=queries, loss=LOSS)
    mask, dice = torch.zeros(3), torch.zeros(3)
    pairs = zip(matches.layer, matches.image, matches.query, matches.instance, points, strict=True)
    for layer, image, query, instance, where in pairs:
        drawn = torch.einsum("c,chw->hw", output.mask_embed_LBQC[layer, image, query], features[image])
        x = sample(drawn[None, None], where[None]).flatten()
        t = sample(targets[image].masks[instance][None, None].float(), where[None]).flatten()
        p = x.sigmoid()
        mask[layer] += LOSS.mask / norm.masks * torch.nn.functional.binary_cross_entropy_with_logits(x, t)
        dice[layer] += LOSS.dice / norm.masks * (1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1))
    found = mask_losses(output, targets, matches, loss=LOSS, norm=norm)
    torch.testing.assert_close(found, {"loss_mask": mask, "loss_dice": dice})


def test_mask_losses_never_wait_for_the_device():
    """Tensors on the device `meta` have no values: copying one to the CPU raises."""
    tasks = make_tasks(1)
    targets = scene(tasks, [3, 0, 5])
    output = perfect(tasks, targets, queries=4)
    matches = match(output, targets, heads=softmax_heads(tasks), loss=LOSS)
    norm = normaliser([target.labels for target in targets], tasks=tasks, num_queries=4, loss=LOSS)
    found = mask_losses(
        QueryOutput({}, output.mask_embed_LBQC.to("meta"), output.mask_features_BCHW.to("meta")),
        [Target(target.masks.to("meta"), target.labels.to("meta")) for target in targets],
        Matches(*(index.to("meta") for index in vars(matches).values())), loss=LOSS, norm=norm,
    )  # fmt: skip
    assert {name: value.shape for name, value in found.items()} == {"loss_mask": (2,), "loss_dice": (2,)}


def test_more_instances_than_queries_still_train():
    tasks = make_tasks(3)
    network = tiny.network(tasks, model={"num_queries": 2}).train()
    values = network([tiny.example(tasks, 5)])
    assert all(torch.isfinite(value) for value in values.values())


def test_a_cost_that_is_not_finite_raises():
    tasks = make_tasks(1)
    targets = scene(tasks, [1])
    output = perfect(tasks, targets)
    output.mask_features_BCHW[:] = float("nan")
    with pytest.raises(FloatingPointError, match="decoder layer 0, image 0"):
        match(output, targets, heads=softmax_heads(tasks), loss=LOSS)
