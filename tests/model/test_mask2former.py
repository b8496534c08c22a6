"""The whole network: its outputs, and that they depend only on the image."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from mtseg.model import mask2former
from mtseg.model.heads import Heads, Softmax
from mtseg.model.mask2former import Mask2Former
from mtseg.training.step import checked
from tests import tiny
from tests.scenes import make_tasks

COUNTS = pytest.mark.parametrize("count", [1, 3, 4])


@COUNTS
def test_training_returns_named_finite_scalars(count):
    tasks = make_tasks(count)
    network = tiny.network(tasks).train()
    losses = network([tiny.example(tasks, 3), tiny.example(tasks, 0)])
    layers = range(len(network.decoder.layers) + 1)
    names = ["mask", "dice", *(task.name for task in tasks)]
    assert set(losses) == {f"loss_{name}_{layer}" for name in names for layer in layers}
    assert set(checked({name: value.item() for name, value in losses.items()})) == set(losses)


@COUNTS
@pytest.mark.parametrize("background", [True, False])
def test_every_parameter_learns(count, background):
    """From the second step on: deformable attention starts with offsets that do not depend on what it sees. A softmax
    does not see what a key's bias adds to all logits alike. (Batch norms, and groups of one channel, would hide more.)
    """
    tasks = make_tasks(count, background)
    network = tiny.network(tasks, model={"hidden_dim": 64, "freeze_norm": True}).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    for seed in (0, 2):
        optimizer.zero_grad()
        sum(network([tiny.example(tasks, 3, seed), tiny.example(tasks, 2, seed + 1)]).values()).backward()
        gradient = {name: parameter.grad.abs().max() for name, parameter in network.named_parameters()}
        optimizer.step()
    still = {name for name, largest in gradient.items() if largest < 1e-6}
    assert still == {name for name in gradient if name.endswith("attention.key.bias")}


@COUNTS
def test_a_step_in_mixed_precision_is_finite(count):
    tasks = make_tasks(count)
    network = tiny.network(tasks).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = network([tiny.example(tasks, 3), tiny.example(tasks, 0)])
    checked({name: value.item() for name, value in losses.items()})
    assert all(value.dtype == torch.float32 for value in losses.values())
    sum(losses.values()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())


def test_mixed_precision_does_not_reach_costs_and_losses(monkeypatch):
    tasks = make_tasks(2)
    network = tiny.network(tasks).train()
    batch = [tiny.example(tasks, 3)]
    output = network.queries(batch)
    monkeypatch.setattr(network, "outputs", lambda _: output)
    torch.manual_seed(0)
    expected = network(batch)
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = network(batch)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_a_network_without_losses_only_predicts():
    tasks = make_tasks(1)
    network = Mask2Former(tasks, tiny.params().model)
    with pytest.raises(AssertionError, match="built without `loss` cannot train"):
        network.train()([tiny.example(tasks, 1)])
    assert network.eval()([tiny.example(tasks, 1)])


@COUNTS
def test_images_without_objects_and_labels_train(count):
    tasks = make_tasks(count)
    network = tiny.network(tasks).train()
    unlabelled = tiny.example(tasks, 2)
    unlabelled["instances"].gt_labels[:, 1:] = -1
    for batch in ([tiny.example(tasks, 0)], [unlabelled]):
        losses = network(batch)
        checked({name: value.item() for name, value in losses.items()})
        sum(losses.values()).backward()


def test_a_task_of_weight_0_leaves_every_other_loss_bit_identical():
    one, further = make_tasks(2)
    muted = further.model_copy(update={"loss_weight": 0.0})

    def trained(tasks):
        network = tiny.network((one, further)).train()
        network.heads = Heads(Softmax([task]) for task in tasks)
        network.decoder.heads = torch.nn.ModuleDict(list(network.decoder.heads.items())[: len(tasks)])
        batch = [tiny.example((one, further), 3), tiny.example((one, further), 2, seed=1)]
        for example in batch:
            example["instances"].gt_labels = example["instances"].gt_labels[:, : len(tasks)]
        torch.manual_seed(1)
        losses = network(batch)
        sum(losses.values()).backward()
        return losses, {name: parameter.grad for name, parameter in network.named_parameters()}

    without, gradients = trained((one,))
    with_muted, muted_gradients = trained((one, muted))
    assert all(torch.equal(with_muted[name], value) for name, value in without.items())
    assert all(with_muted[name] == 0 for name in with_muted.keys() - without.keys())
    own = f"head_{further.name}"
    assert own not in "".join(gradients)
    assert all(torch.equal(muted_gradients[name], value) for name, value in gradients.items())


def test_a_further_head_of_weight_0_changes_nothing_from_the_first_weight_on():
    """Heads are initialised last, so that a further head does not change the random weights of other parts."""
    tasks = make_tasks(3)
    muted = tasks[2].model_copy(update={"loss_weight": 0.0, "match_weight": 0.0})

    def trained(tasks):
        network = tiny.network(tasks).train()
        batch = [tiny.example(make_tasks(3), 3), tiny.example(make_tasks(3), 2, seed=1)]
        for example in batch:
            example["instances"].gt_labels = example["instances"].gt_labels[:, : len(tasks)]
        start = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
        torch.manual_seed(1)
        losses = network(batch)
        sum(losses.values()).backward()
        return start, losses, {name: parameter.grad for name, parameter in network.named_parameters()}

    for one, other in zip(trained(tasks[:2]), trained((*tasks[:2], muted)), strict=True):
        assert all(torch.equal(other[name], value) for name, value in one.items())


@COUNTS
def test_a_missing_label_trains_nothing(count):
    """Without a no-object slot a head learns from labels alone; with it, also from the queries that matched nothing."""
    for background in (True, False):
        tasks = make_tasks(count, background)
        network = tiny.network(tasks).train()
        batch = [tiny.example(tasks, 3)]
        batch[0]["instances"].gt_labels[:, 1:] = -1
        losses = network(batch)
        sum(losses.values()).backward()
        for task in tasks[1:]:
            silent = not background
            assert all((value == 0) == silent for name, value in losses.items() if f"loss_{task.name}_" in name)
            gradient = network.decoder.heads[f"head_{task.name}"].weight.grad
            assert bool((gradient == 0).all()) == silent


@COUNTS
def test_labels_vary_with_the_image(count):
    tasks = make_tasks(count)
    network = tiny.network(tasks).eval()
    with torch.no_grad():
        output = network.queries([tiny.example(tasks, 1), tiny.example(tasks, 1, seed=1)])
    for logits in output.logits.values():
        assert not torch.allclose(logits[-1, 0], logits[-1, 1], atol=1e-4)


def sharp(network):
    """Random heads with large weights, so that no scores are equal and masks are neither full nor empty."""
    torch.manual_seed(3)
    for head in network.decoder.heads.values():
        nn.init.normal_(head.weight)
    return network.eval()


@COUNTS
def test_a_batch_of_one_equals_a_batch_of_many(count):
    tasks = make_tasks(count)
    network = sharp(tiny.network(tasks))
    batch = [tiny.example(tasks, 0, seed=i, size=(64, 40 + 8 * i)) for i in range(3)]
    for example, (found, masks) in zip(batch, network(batch), strict=True):
        ((alone, own),) = network([example])
        assert torch.equal(alone.query, found.query)
        assert torch.equal(alone.pred_labels, found.pred_labels)
        assert torch.allclose(alone.scores, found.scores, atol=1e-5)
        assert (own[alone.mask] != masks[found.mask]).float().mean() < 1e-3
        for task in tasks:
            name = f"logits_{task.name}"
            assert torch.allclose(alone.get(name), found.get(name), atol=1e-4)


@COUNTS
def test_masks_scores_and_all_labels_come_from_one_query(count):
    tasks = make_tasks(count)
    network = sharp(tiny.network(tasks))
    batch = [tiny.example(tasks, 0, seed=i) for i in range(2)]
    with torch.no_grad():
        output = network.queries(batch)
        found = network.detect(output, batch)
    for b, (instances, masks) in enumerate(found):
        assert len(set(instances.query.tolist())) > 1, "one query alone would prove nothing"
        own = output.masks()[b][instances.query]
        full = nn.functional.interpolate(own[None], size=(tiny.SIDE, tiny.SIDE), mode="bilinear")
        full = nn.functional.interpolate(full, size=(50, 40), mode="bilinear")[0]
        assert torch.equal(masks[instances.mask], full > 0)
        for t, task in enumerate(tasks):
            logits = output.logits[task.name][-1, b, instances.query]
            assert torch.equal(instances.get(f"logits_{task.name}"), logits)
            if t:
                assert torch.equal(instances.pred_labels[:, t], logits[:, : task.num_classes].argmax(-1))
            else:
                chosen = logits.softmax(-1).gather(1, instances.pred_classes[:, None])[:, 0]
                assert torch.allclose(instances.scores, chosen * instances.mask_quality, atol=1e-5)
        assert torch.equal(instances.scores, instances.scores.sort(descending=True).values)


@COUNTS
def test_detections_are_sorted_by_probability_times_mask_quality(count):
    """Mask logits that differ by orders of magnitude, so that the order by probability alone is another."""
    tasks = make_tasks(count)
    network, batch = sharp(tiny.network(tasks)), [tiny.example(tasks, 0)]
    with torch.no_grad():
        output = network.queries(batch)
        ((found, _),) = network.detect(output, batch)
        embed_QC = output.mask_embed_LBQC[-1, 0]
        embed_QC *= 100  # the quality of every mask becomes 1,
        embed_QC[found.query[0]] *= 1e-5  # of the most probable query 0.5
        ((instances, masks),) = network.detect(output, batch)
    certainty = instances.scores / instances.mask_quality
    assert not torch.equal(certainty, certainty.sort(descending=True).values), "else this would prove nothing"
    assert torch.equal(instances.scores, instances.scores.sort(descending=True).values)
    for row, mask in enumerate(masks[instances.mask]):
        (logits,) = output.masks()[:1, instances.query[row], None]
        full = nn.functional.interpolate(logits[None], size=(tiny.SIDE, tiny.SIDE), mode="bilinear")
        assert torch.equal(mask, nn.functional.interpolate(full, size=(50, 40), mode="bilinear")[0, 0] > 0)


def test_a_mask_logit_of_0_is_outside_the_mask():
    tasks = make_tasks(1)
    network, batch = sharp(tiny.network(tasks)), [tiny.example(tasks, 0)]
    with torch.no_grad():
        output = network.queries(batch)
        output.mask_features_BCHW.zero_()
        ((found, masks),) = network.detect(output, batch)
    assert len(found) and not masks.any() and not found.mask_quality.any()


class OnCuda(str):
    """A device that is called CUDA, for tensors in the memory of the CPU."""

    type = "cuda"


def test_distinct_queries_are_found_alike_where_the_host_must_not_wait():
    class Queries(torch.Tensor):
        device = OnCuda("cpu")

    for found in ([5, 1, 5, 0, 1], [3, 3, 3], [7], [0, 1, 2, 3, 4, 5, 6, 7]):
        kept, position = mask2former.distinct(torch.tensor(found), 8)
        padded, same = mask2former.distinct(torch.tensor(found).as_subclass(Queries), 8)
        assert padded[: len(kept)].tolist() == kept.tolist() == sorted(set(found)) and len(padded) == len(found)
        assert same.tolist() == position.tolist() and kept[position].tolist() == found


class Largest(TorchDispatchMode):
    """Bytes of the largest tensor of numbers that an operation returns."""

    bytes = 0

    def __torch_dispatch__(self, call, types, given=(), named=None):
        result = call(*given, **(named or {}))
        if isinstance(result, torch.Tensor) and result.is_floating_point():
            self.bytes = max(self.bytes, result.nbytes)
        return result


def test_masks_of_an_image_that_is_too_large_are_resized_one_at_a_time(monkeypatch):
    monkeypatch.setattr(mask2former, "RESIZED_PIXELS", 1)
    tasks = make_tasks(1)
    network, example = sharp(tiny.network(tasks)), tiny.example(tasks, 0) | {"height": 300, "width": 400}
    with torch.no_grad():
        output = network.queries([example])
        with Largest() as largest:
            ((_, masks),) = network.detect(output, [example])
    assert len(masks) > 1 and largest.bytes <= 300 * 400 * 4


def test_masks_of_a_large_image_are_resized_a_few_at_a_time():
    tasks = make_tasks(1)
    network = sharp(tiny.network(tasks))
    example = tiny.example(tasks, 0) | {"height": 2000, "width": 2500}
    with torch.no_grad():
        output = network.queries([example])
        with Largest() as largest:
            ((instances, masks),) = network.detect(output, [example])
        assert len(masks) > 3 and largest.bytes <= 3 * 2000 * 2500 * 4 < masks.numel() * 4
        for query, row, quality in zip(instances.query, instances.mask, instances.mask_quality, strict=True):
            square = nn.functional.interpolate(output.masks()[:1, query, None], size=(tiny.SIDE,) * 2, mode="bilinear")
            own = nn.functional.interpolate(square, size=(2000, 2500), mode="bilinear")[0, 0]
            assert torch.equal(masks[row], own > 0)
            assert quality.item() == pytest.approx(own[own > 0].sigmoid().mean().item(), abs=1e-4)


def test_the_quality_of_one_pixel_is_its_probability_and_that_of_no_pixel_0():
    logits = torch.tensor([2.0, -1.0]).view(2, 1, 1)
    example = {"image": torch.zeros(3, 4, 4), "image_size": (4, 4), "height": 1, "width": 1}
    masks, quality = mask2former._masks(logits, example)
    assert masks.flatten().tolist() == [True, False]
    assert quality.tolist() == pytest.approx([torch.tensor(2.0).sigmoid().item(), 0])


def test_a_checkpoint_holds_what_is_trained_not_the_constants_of_the_input():
    network = tiny.network(make_tasks(1))
    assert not {"pixel_mean", "pixel_std"} & network.state_dict().keys()


def test_heads_have_a_no_object_output_where_the_task_has_the_slot():
    for background in (True, False):
        tasks = make_tasks(3, background)
        network = tiny.network(tasks)
        sizes = {name: head.out_features for name, head in network.decoder.heads.items()}
        assert sizes == {f"head_{task.name}": len(task.classes) + task.background for task in tasks}


def test_a_task_may_have_a_name_that_modules_use_themselves():
    (task,) = make_tasks(1)
    tasks = (task.model_copy(update={"name": "type"}), task.model_copy(update={"name": "training"}))
    assert tiny.network(tasks)([tiny.example(tasks, 1)])


def test_two_images_can_be_learnt():
    tasks = make_tasks(3)
    network = tiny.network(tasks, loss={"num_points": 256}).train()
    batch = [tiny.example(tasks, 2), tiny.example(tasks, 2, seed=1)]
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    for _ in range(60):
        losses = network(batch)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 0.1)
        optimizer.step()
    last = len(network.decoder.layers)
    assert all(losses[f"loss_{task.name}_{last}"] < 0.1 for task in tasks)
    assert losses[f"loss_mask_{last}"] + losses[f"loss_dice_{last}"] < 3
