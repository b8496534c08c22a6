"""Every file of mtseg/model/backbones keeps the contract that its package states."""

import importlib
import math
import subprocess
import sys

import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d
from torch import nn

from mtseg.errors import UserError
from mtseg.model import backbones
from mtseg.model.frozen_norm import freeze
from mtseg.model.weights import read

LEVELS = ["res2", "res3", "res4", "res5"]
every_backbone = pytest.mark.parametrize("name", backbones.names())


def file_of(name):
    return importlib.import_module(f"mtseg.model.backbones.{name}")


def random_network(name):
    """A backbone whose batch norms do something: fresh ones have mean 0 and variance 1."""
    torch.manual_seed(0)
    network = file_of(name).build()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.weight, 0.5, 1.0),
                (module.bias, -0.2, 0.2),
                (module.running_mean, -0.2, 0.2),
                (module.running_var, 0.8, 1.2),
            ):
                nn.init.uniform_(tensor, low, high)
    return network


@every_backbone
@pytest.mark.parametrize("height, width", [(64, 64), (97, 130), (33, 31)])
def test_f5_declared_channels_and_strides_are_the_real_ones(name, height, width):
    module = file_of(name)
    network = backbones.build(name, weights=None, freeze_norm=True).eval()
    with torch.no_grad():
        features = network(torch.rand(2, 3, height, width))
    assert list(features) == list(network.output_shape()) == list(module.STRIDES) == list(module.CHANNELS) == LEVELS
    for level, x in features.items():
        shape, stride = network.output_shape()[level], module.STRIDES[level]
        assert (shape.channels, shape.stride) == (module.CHANNELS[level], stride)
        assert x.shape == (2, module.CHANNELS[level], math.ceil(height / stride), math.ceil(width / stride))
    assert list(module.STRIDES.values()) == [4, 8, 16, 32]


@every_backbone
@pytest.mark.parametrize("table, wrong", [("CHANNELS", 113), ("STRIDES", 16)])
def test_f5_a_wrong_declaration_does_not_build(name, table, wrong, monkeypatch):
    monkeypatch.setitem(getattr(file_of(name), table), "res5", wrong)
    with pytest.raises(UserError, match=rf"{name}\.py: wrong \(channels, stride\).*{wrong}.*'{name}' has"):
        backbones.build(name, weights=None, freeze_norm=False)


def test_f5_mobilenet_cut_at_the_wrong_block_does_not_build(monkeypatch):
    """The historical bug: 112 channels at stride 16 for the last feature, instead of 160 at 32."""
    monkeypatch.setattr(file_of("mobilenetv3_large"), "ENDS", {"res2": 4, "res3": 7, "res4": 11, "res5": 13})
    with pytest.raises(UserError, match=r"'res5': \(160, 32\).*'res5': \(112, 16\)"):
        backbones.build("mobilenetv3_large", weights=None, freeze_norm=False)


@every_backbone
def test_normalisation_suits_bytes_in_rgb(name):
    network = backbones.build(name, weights=None, freeze_norm=True)
    assert len(network.pixel_mean) == len(network.pixel_std) == 3
    assert all(100 < mean < 130 for mean in network.pixel_mean) and all(50 < std < 130 for std in network.pixel_std)


@every_backbone
def test_freezing_keeps_outputs_and_keys(name):
    network = random_network(name).eval()
    pictures = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        before, keys = network(pictures), set(network.state_dict())
        freeze(network)
        after = network(pictures)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    assert set(network.state_dict()) == keys
    for level in LEVELS:
        torch.testing.assert_close(after[level], before[level], rtol=0, atol=0)


def test_freezing_keeps_an_activation_that_detectron2s_conversion_loses():
    network = random_network("efficientnet_lite0").eval()
    pictures = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        before = network(pictures)["res5"]
        naive = FrozenBatchNorm2d.convert_frozen_batchnorm(network)(pictures)["res5"]
    assert not torch.allclose(naive, before, atol=1e-2)


@every_backbone
def test_a_frozen_backbone_in_training_answers_each_picture_alone(name):
    network = random_network(name)
    freeze(network.train())
    state = {key: value.clone() for key, value in network.state_dict().items()}
    pictures = torch.rand(3, 3, 64, 64)
    together = network(pictures)
    alone = network(pictures[:1])
    for level in LEVELS:
        torch.testing.assert_close(together[level][:1], alone[level], rtol=1e-4, atol=1e-4)
    sum(x.mean() for x in together.values()).backward()
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    missing = [key for key, value in network.named_parameters() if value.grad is None]
    assert not missing and not [key for key, _ in network.named_parameters() if ".norm." in key or "bn" in key]


@every_backbone
def test_half_precision_stays_half_through_frozen_norms(name):
    network = random_network(name)
    freeze(network)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = network(torch.rand(1, 3, 64, 64))
    assert all(x.dtype == torch.bfloat16 for x in features.values())


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(UserError, match="no 'resnet5'; there are efficientnet_lite0, mobilenetv3_large, resnet50"):
        backbones.build("resnet5", weights=None, freeze_norm=True)


def test_imagenet_only_where_a_package_carries_it():
    with pytest.raises(UserError, match="no installed package carries ImageNet weights for 'resnet50'.*null.*path"):
        backbones.build("resnet50", weights="imagenet", freeze_norm=True)


def test_imagenet_weights_of_lite0_are_the_packages(capsys):
    """The package's tensors and the network's stand in the same order, so the table of names has an independent
    check; the fingerprint holds padding, eps and activation."""
    network = backbones.build("efficientnet_lite0", weights="imagenet", freeze_norm=True).eval()
    given = [v for k, v in read(file_of("efficientnet_lite0").imagenet()).items() if "num_batches_tracked" not in k]
    loaded = [v for k, v in network.state_dict().items() if "num_batches_tracked" not in k]
    assert len(loaded) == 240
    assert all(torch.equal(a, b) for a, b in zip(given[:240], loaded, strict=True))
    assert "new        0" in capsys.readouterr().out

    y, x = torch.meshgrid(torch.linspace(-1, 1, 96), torch.linspace(-1, 1, 96), indexing="ij")
    with torch.no_grad():
        features = network(torch.stack([x, y, x * y])[None])
    # eps 1e-5 would give 6.154 and 2.446 in the last two, symmetric padding 9.753 in the first
    fingerprint = [float(features[level].std()) for level in LEVELS]
    assert fingerprint == pytest.approx([7.950, 7.692, 6.073, 2.284], abs=0.005)


def test_a_changed_package_file_is_refused(monkeypatch):
    monkeypatch.setattr(file_of("efficientnet_lite0"), "SHA256", "0" * 64)
    with pytest.raises(UserError, match="is damaged"):
        backbones.build("efficientnet_lite0", weights="imagenet", freeze_norm=True)


def test_listing_backbones_imports_no_torch():
    code = "import sys, mtseg.model.backbones as b; b.names(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
