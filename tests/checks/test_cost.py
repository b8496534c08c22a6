"""What a training step takes, from the shapes of its tensors."""

from copy import deepcopy

import pytest
from torch import nn

from mtseg.checks.cost import _step, costs
from tests import tiny
from tests.scenes import make_tasks


def network(**model):
    return tiny.network(make_tasks(1), model=model)


@pytest.mark.parametrize("freeze", [True, False])
def test_a_step_of_any_size_and_batch_costs_what_its_tensors_take(freeze):
    """Also with frozen norms, which are folded into weights once for each step, and of a single pixel, which batch norm
    refuses in a batch of one image."""
    given = network(freeze_norm=freeze)
    weights = 3 * 4 * sum(x.numel() for x in given.parameters())
    shapes = deepcopy(given).to("meta").train()
    for images in (2, 8):
        found = costs(given, (32, 64, 96, 256), images=images)
        for size, cost in found.items():
            operations, kept = _step(shapes, images, size)
            assert cost.operations == pytest.approx(operations)
            assert cost.memory == pytest.approx(weights + kept)
    assert [*found] == [32, 64, 96, 256] and costs(given, [32], images=8)[32] == found[32]


def test_memory_of_a_layer_is_what_its_gradients_need():
    """A network that also squares the output of its first convolution keeps that."""
    plain, longer = network(), network()
    first = next(module for module in longer.backbone.modules() if isinstance(module, nn.Conv2d))
    numbers = []

    def square(module, given, output):
        numbers.append(output[0].numel())
        return output * output

    first.register_forward_hook(square)
    few, more = (costs(each, [64], images=1)[64].memory for each in (plain, longer))
    assert more - few == 4 * numbers[0]


def test_recomputed_layers_keep_less():
    none, both = (costs(network(recompute=kind, freeze_norm=True), [256], images=1)[256] for kind in ("none", "both"))
    assert both.memory < none.memory and both.operations == none.operations


def test_the_network_keeps_its_weights():
    given = network()
    before = {name: value.clone() for name, value in given.state_dict().items()}
    assert costs(given, [64], images=1)
    assert all(value.device.type == "cpu" and value.equal(before[name]) for name, value in given.state_dict().items())


@pytest.mark.parametrize("read", [lambda x: float(x.max()), lambda x: x.numpy(), lambda x: {"cpu": 1}[x.device.type]])
def test_a_backbone_that_reads_values_has_no_cost(read):
    given = network()
    given.backbone.register_forward_pre_hook(lambda module, images: read(images[0]) and None)
    assert costs(given, [64], images=1) == {}
