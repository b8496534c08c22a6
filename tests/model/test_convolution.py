"""Faster convolutions, compared with the plain ones."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from timm.layers import Conv2dSame
from torch import nn

from mtseg.model.backbones._convolution import Wide, speed_up
from mtseg.model.backbones._frozen_norm import FrozenNormAct, freeze
from tests.model.test_backbones import FAMILIES, TIMM, random_network


def with_gradients(network, x):
    """Its output, and the gradients of its inputs and parameters."""
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    y = network(x)
    y = y["res5"] if isinstance(y, dict) else y
    return y, *torch.autograd.grad(y.sin().sum(), (x, *network.parameters()), allow_unused=True)


@pytest.mark.parametrize("stride", [1, 2, (1, 2)])
@pytest.mark.parametrize(("kind", "padding"), [(nn.Conv2d, 2), (Conv2dSame, 0)])
def test_depthwise_5_by_5(kind, padding, stride, monkeypatch):
    theirs = kind(6, 6, 5, stride=stride, padding=padding, groups=6, bias=False).double()
    ours = nn.Sequential(deepcopy(theirs))
    speed_up(ours)
    ours, used = deepcopy(ours), []
    monkeypatch.setattr(Wide, "apply", lambda *args, run=Wide.apply: used.append(1) or run(*args))
    x = torch.randn(2, 6, 9, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected, found = with_gradients(theirs, x), with_gradients(ours, x)
    assert used == [1]
    torch.testing.assert_close(found, expected)


def test_other_convolutions_stay():
    others = [nn.Conv2d(6, 6, 3, groups=6, bias=False), nn.Conv2d(6, 6, 5, padding=2, bias=False)]
    others += [nn.Conv2d(6, 6, 5, padding=2, groups=6), nn.Conv2d(6, 6, 5, padding=1, groups=6, bias=False)]
    speed_up(nn.Sequential(*others))
    assert not any("forward" in vars(conv) for conv in others)


@pytest.mark.parametrize("name", [*FAMILIES[:3], TIMM[0]])
def test_frozen_norms_are_folded(name):
    theirs = random_network(name).double()
    freeze(theirs)
    keys, ours = set(theirs.state_dict()), deepcopy(theirs).float()
    speed_up(ours)
    ours = deepcopy(ours).double()
    norms = [module for module in ours.modules() if isinstance(module, FrozenNormAct)]
    assert all(norm.folded for norm in norms) and set(ours.state_dict()) == keys
    for norm in (module for module in theirs.modules() if isinstance(module, FrozenNormAct)):
        norm.fold()
    for norm in norms:
        norm.fold()
    x = torch.randn(1, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(with_gradients(ours, x), with_gradients(theirs, x))


def test_a_norm_that_shares_its_input_stays():
    class Twice(nn.Module):
        """Two norms of one convolution."""

        def __init__(self):
            super().__init__()
            self.conv, self.first, self.second = nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4), nn.BatchNorm2d(4)

        def forward(self, x):
            x = self.conv(x)
            return self.first(x) + self.second(x)

    network = Twice()
    freeze(network)
    speed_up(network)
    assert not network.first.folded and not network.second.folded
