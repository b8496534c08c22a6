"""Folded norms, compared with norms of their own."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn

from mtseg.model.backbones._folding import fold_norms
from mtseg.model.backbones._frozen_norm import FrozenNormAct, freeze
from tests.model.test_backbones import FAMILIES, TIMM, random_network


def norms(network):
    return [module for module in network.modules() if isinstance(module, FrozenNormAct)]


@pytest.mark.parametrize("name", [*FAMILIES[:3], TIMM[0]])
def test_frozen_norms_are_folded(name):
    theirs = random_network(name).double()
    freeze(theirs)
    keys, ours = set(theirs.state_dict()), deepcopy(theirs).float()
    fold_norms(ours)
    ours = deepcopy(ours).double()
    for norm in (*norms(theirs), *norms(ours)):
        norm.fold()
    assert all(norm.folded for norm in norms(ours)) and set(ours.state_dict()) == keys
    x = torch.randn(1, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = theirs(x)
    torch.testing.assert_close(ours(x), expected, rtol=0, atol=0)  # in training nothing is folded
    scaled = []
    for norm in norms(ours):  # a folded norm leaves its input as it is, but for the activation
        norm.drop.register_forward_hook(lambda _, given, __: scaled.append(given[0]))
        norm.register_forward_pre_hook(lambda _, given: scaled.append(given[0]))
    with torch.no_grad():
        torch.testing.assert_close(ours(x), expected)
    assert scaled and all(after is before for before, after in zip(scaled[::2], scaled[1::2], strict=True))


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
    fold_norms(network)
    assert not network.first.folded and not network.second.folded
