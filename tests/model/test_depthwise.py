"""The backward pass of depthwise convolutions, compared with PyTorch's."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from timm.layers import Conv2dSame
from torch import nn

from mtseg.model.backbones._depthwise import Depthwise, speed_up


@pytest.mark.parametrize("stride", [1, 2, (1, 2)])
@pytest.mark.parametrize(("kind", "padding"), [(nn.Conv2d, 2), (Conv2dSame, 0)])
def test_outputs_and_gradients_equal_those_of_pytorch(kind, padding, stride, monkeypatch):
    theirs = kind(6, 6, 5, stride=stride, padding=padding, groups=6, bias=False).double()
    ours = nn.Sequential(deepcopy(theirs))
    speed_up(ours)
    ours, used = deepcopy(ours), []
    monkeypatch.setattr(Depthwise, "apply", lambda *args, run=Depthwise.apply: used.append(1) or run(*args))
    found = []
    for network in (theirs, ours):
        x = torch.randn(2, 6, 9, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
        y = network(x)
        found.append((y, *torch.autograd.grad((y.sin()).sum(), (x, *network.parameters()))))
    assert used == [1]
    torch.testing.assert_close(found[1], found[0])


def test_other_convolutions_stay():
    others = [nn.Conv2d(6, 6, 3, groups=6, bias=False), nn.Conv2d(6, 6, 5, padding=2, bias=False)]
    others += [nn.Conv2d(6, 6, 5, padding=2, groups=6), nn.Conv2d(6, 6, 5, padding=1, groups=6, bias=False)]
    speed_up(nn.Sequential(*others))
    assert not any("forward" in vars(conv) for conv in others)
