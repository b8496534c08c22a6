import json
import pickle

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import torchvision
from torch import nn

from mtseg.core.errors import UserError
from mtseg.model import backbones
from mtseg.model.weights import initialise, load, write
from tests.tiny import BACKBONE, save


def build(name, path):
    """A backbone initialised from a file; prints the table."""
    network = nn.ModuleDict({"backbone": backbones.build(name, freeze_norm=False)})
    print(initialise(network, str(path), backbone=name, tasks=()))
    return network["backbone"].eval()


def randomise(network):
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.8, 1.2)
    return network.eval()


# A backbone from the classifier that published weights come from, and that classifier's own last feature.


def torchvision_resnet50():
    network = randomise(torchvision.models.resnet50(weights=None))
    return network, nn.Sequential(*list(network.children())[:-2])


def torchvision_mobilenet():
    network = randomise(torchvision.models.mobilenet_v3_large(weights=None))
    return network, network.features[:16]


def timm_lite0():
    network = randomise(timm.create_model("tf_efficientnet_lite0"))
    return network, nn.Sequential(network.conv_stem, network.bn1, network.blocks)


@pytest.mark.parametrize(
    "name, classifier",
    [
        ("resnet50", torchvision_resnet50),
        ("mobilenetv3_large", torchvision_mobilenet),
        ("efficientnet_lite0", timm_lite0),
    ],
)
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_published_layouts_load_and_give_the_same_features(name, classifier, suffix, tmp_path, capsys):
    torch.manual_seed(0)
    network, last = classifier()
    path = tmp_path / f"weights.{suffix}"
    if suffix == "pth":
        torch.save({"state_dict": {f"module.{key}": value for key, value in network.state_dict().items()}}, path)
    else:
        safetensors.torch.save_file(network.state_dict(), path)
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(build(name, path)(images)["res5"], last(images))
    table = capsys.readouterr().out
    assert table.startswith(f"weights of {path.name}\n  loaded ") and "new        0\n" in table and "unused " in table


def as_detectron2_has_it(key):
    """torchvision's keys as FAIR's convert-torchvision-to-d2.py converts them."""
    key = key if "layer" in key else f"stem.{key}"
    for number in range(1, 5):
        key = key.replace(f"layer{number}", f"res{number + 1}").replace(f"bn{number}", f"conv{number}.norm")
    return key.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")


def test_detectron2s_imagenet_pickle_loads(tmp_path, capsys):
    torch.manual_seed(0)
    network, last = torchvision_resnet50()
    model = {as_detectron2_has_it(key): value.numpy() for key, value in network.state_dict().items()}
    path = tmp_path / "R-50.pkl"
    path.write_bytes(pickle.dumps({"model": model, "__author__": "torchvision", "matching_heuristics": True}))
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(build("resnet50", path)(images)["res5"], last(images))
    table = capsys.readouterr().out
    assert "new        0\n" in table and "unused     2  backbone.stem.fc.weight, backbone.stem.fc.bias" in table


def test_msras_resnet_is_not_taken_for_torchvisions(tmp_path):
    model = {"conv1_w": np.zeros((64, 3, 7, 7), "f4"), "res2_0_branch2a_w": np.zeros((64, 64, 1, 1), "f4")}
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps(model))
    with pytest.raises(UserError, match="'res2_0_branch2a_w' belongs to MSRA's ResNet"):
        build("resnet50", tmp_path / "R-50.pkl")


@pytest.mark.parametrize("partial", [False, True])
def test_a_detector_trained_from_msras_resnet_is_refused_too(partial, tmp_path):
    """Its norms are frozen, with scale and shift only and the initial statistics of FrozenBatchNorm2d."""
    network = backbones.build("resnet50", freeze_norm=False)
    state = {f"backbone.{key}": value for key, value in network.state_dict().items()}
    for key, value in state.items():
        if key.endswith("running_var"):
            value.fill_(1 - 1e-5)
    torch.save({"model": state}, tmp_path / "model_final.pth")
    network = nn.ModuleDict({"backbone": network})
    with pytest.raises(UserError, match="norms have initial statistics belongs to MSRA's ResNet"):
        initialise(network, str(tmp_path / "model_final.pth"), backbone="resnet50", tasks=(), partial=partial)


def test_a_backbone_is_found_inside_a_detector(tmp_path, capsys):
    network = randomise(backbones.build("mobilenetv3_large", freeze_norm=False))
    detector = nn.ModuleDict({"backbone": network, "decoder": nn.Linear(2, 2)})
    save(tmp_path / "best.safetensors", detector, {})
    again = build("mobilenetv3_large", tmp_path / "best.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))
    assert "decoder.bias, decoder.weight" in capsys.readouterr().out


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda state: state.pop("features.0.0.weight"), r"1 are missing in the file \(stages.res2.0.0.weight\)"),
        (lambda state: state.update({"features.15.extra": torch.zeros(1)}), r"1 are unknown \(features.15.extra\)"),
        (
            lambda state: state.update({"features.0.0.weight": torch.zeros(16, 3, 5, 5)}),
            r"1 have another shape \(features.0.0.weight \[16, 3, 5, 5\] for \[16, 3, 3, 3\]\)",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named_and_counted(change, message, tmp_path):
    state = torchvision.models.mobilenet_v3_large(weights=None).state_dict()
    change(state)
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(UserError, match=message):
        build("mobilenetv3_large", tmp_path / "weights.pth")


def test_a_deeper_network_of_the_same_family_is_not_taken_for_this_one(tmp_path):
    """ResNet-101 has a tensor of the right shape for each of ResNet-50's."""
    state = torchvision.models.resnet50(weights=None).state_dict()
    state |= {key.replace("layer3.5", "layer3.6"): value for key, value in state.items() if "layer3.5" in key}
    torch.save(state, tmp_path / "deeper.pth")
    with pytest.raises(UserError, match=r"0 are missing in the file.*15 are unknown \(layer3.6.conv1.weight, "):
        build("resnet50", tmp_path / "deeper.pth")


def test_weights_of_another_network_are_refused(tmp_path):
    save(tmp_path / "other.safetensors", nn.Linear(2, 2), {})
    with pytest.raises(UserError, match=r"0 of its \d+ tensors fit"):
        build("efficientnet_lite0", tmp_path / "other.safetensors")


METADATA = {"tasks": [{"name": "shape", "classes": ["circle", "größe"], "background": True}], "step": 7, "score": None}


def test_a_checkpoint_comes_back_as_it_was(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to(memory_format=torch.channels_last)
    path = tmp_path / "models" / "best.safetensors"
    save(path, model, METADATA)
    state, metadata = load(path)
    assert metadata == METADATA
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    assert [file.name for file in path.parent.iterdir()] == ["best.safetensors"]


def test_the_same_model_gives_the_same_bytes(tmp_path):
    state = nn.Linear(3, 4).state_dict()
    write(tmp_path / "a.safetensors", state, "{}")
    write(tmp_path / "b.safetensors", dict(reversed(state.items())), "{}")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_a_checkpoint_that_is_missing_or_not_ours(tmp_path):
    with pytest.raises(UserError, match="best.safetensors: no such file: run `dvc repro train`"):
        load(tmp_path / "models/best.safetensors")
    safetensors.torch.save_file({"w": torch.zeros(1)}, tmp_path / "foreign.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="foreign.safetensors is not a checkpoint of this project"):
        load(tmp_path / "foreign.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "foreign.safetensors").read_bytes()[:-2])
    with pytest.raises(UserError, match="is broken"):
        load(tmp_path / "cut.safetensors")


@pytest.mark.parametrize(
    "entry",
    [
        "not json", "", "[]", "null", '{"tasks": 3}', '{"tasks": ["shape"]}', '{"tasks": [{"name": "shape"}]}',
        '{"tasks": [{"name": "shape", "classes": "abc", "background": true}]}', "[" * 100_000,
        '{"model": 3}', '{"seen": [3]}',
    ],
    ids=lambda entry: entry[:30],
)  # fmt: skip
def test_a_header_that_describes_no_network_gives_one_line(entry, tmp_path):
    path = tmp_path / "odd.safetensors"
    safetensors.torch.save_file({"w": torch.zeros(1)}, path, metadata={"mtseg": entry})
    for reader in (load, lambda path: build("efficientnet_lite0", path)):
        with pytest.raises(UserError, match="odd.safetensors is broken: the entry 'mtseg' of its header") as caught:
            reader(path)
        assert "\n" not in str(caught.value)


def test_the_header_is_one_json_entry(tmp_path):
    save(tmp_path / "a.safetensors", nn.Linear(1, 1), METADATA)
    with safetensors.safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert {**json.loads(file.metadata()["mtseg"]), "sha256": None} == {**METADATA, "sha256": None}
    assert load(tmp_path / "a.safetensors")[1] == METADATA


def test_a_weight_of_another_value_is_seen(tmp_path):
    path = tmp_path / "a.safetensors"
    save(path, nn.Linear(1, 1), METADATA)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1  # a small change of the exponent
    path.write_bytes(data)
    for reader in (load, lambda path: build("efficientnet_lite0", path)):
        with pytest.raises(UserError, match="a.safetensors is damaged"):
            reader(path)


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (lambda weight: weight.index_fill_(0, torch.tensor([3]), torch.nan), "has values that are not finite"),
        (lambda weight: weight.double() * 1e300, "has values that are not finite"),
        (lambda weight: weight.to(torch.int8), "is torch.int8, expected torch.float32"),
    ],
    ids=["nan", "too large", "int8"],
)
def test_initial_weights_that_are_no_finite_numbers_are_refused(spoil, fault, tmp_path):
    network = nn.ModuleDict({"backbone": backbones.build(BACKBONE, freeze_norm=False)})
    state = network.state_dict()
    key = next(key for key, value in state.items() if value.ndim == 4)
    torch.save(state | {key: spoil(state[key].clone())}, path := tmp_path / "w.pth")
    for partial in (False, True):
        with pytest.raises(UserError, match=f"w.pth.* its tensor {key} {fault}"):
            initialise(network, str(path), backbone=BACKBONE, tasks=(), partial=partial)
