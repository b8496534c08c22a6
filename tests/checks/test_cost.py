"""What a training step takes, from the shapes of its tensors."""

import pytest
from torch import nn

from mtseg.checks.cost import costs
from tests import tiny
from tests.scenes import make_tasks


def network(**model):
    return tiny.network(make_tasks(1), model=model)


def test_larger_images_take_more_but_the_weights_and_queries_stay():
    found = costs(network(), (64, 128, 256), images=2)
    assert list(found) == [64, 128, 256]
    first, second = ([getattr(cost, name) for cost in found.values()] for name in ("operations", "memory"))
    for values in (first, second):
        assert 1 < values[1] / values[0] < 4 and 1 < values[2] / values[1] < 4, values
        assert values[2] - values[1] == pytest.approx(4 * (values[1] - values[0]), rel=0.05)  # by pixels


def test_the_batch_multiplies_all_but_the_weights():
    one, two, three = (costs(network(), [128], images=images)[128] for images in (1, 2, 3))
    assert one.operations * 3 == three.operations
    assert three.memory - two.memory == two.memory - one.memory > 0
    weights = 3 * 4 * sum(x.numel() for x in network().parameters())
    assert one.memory - (two.memory - one.memory) == weights


def test_memory_of_a_layer_is_what_its_gradients_need():
    """A backbone that is one more convolution keeps one more input."""
    plain, longer = network(), network()
    first = next(module for module in longer.backbone.modules() if isinstance(module, nn.Conv2d))
    count = 0

    def again(module, given, output):
        nonlocal count
        count = output[0].numel()
        return output * output

    first.register_forward_hook(again)
    few, more = (costs(each, [64], images=1)[64].memory for each in (plain, longer))
    assert more - few == 4 * count


def test_recomputed_layers_keep_less():
    none, both = (costs(network(recompute=kind, freeze_norm=True), [256], images=1)[256] for kind in ("none", "both"))
    assert both.memory < none.memory and both.operations == none.operations


def test_the_network_is_as_before_and_one_that_reads_values_has_no_cost():
    given = network()
    before = {name: value.clone() for name, value in given.state_dict().items()}
    assert costs(given, [64], images=1)
    assert all(value.device.type == "cpu" and value.equal(before[name]) for name, value in given.state_dict().items())

    def reads(module, images):
        return images[0] * float(images[0].max())

    given.backbone.register_forward_pre_hook(reads)
    assert costs(given, [64], images=1) == {}
