"""A whole network's weights: of another network of this project, or of FAIR's.

fixtures/official_*_keys.json list every key and shape in the state dict of FAIR's published COCO instance models
(hidden_dim 256, 6 encoder layers with feed-forward 1024, 9 decoder layers with 2048, 100 queries, 80 classes).
"""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from pydantic import ValidationError
from torch import nn

from benchmarks import parity as networks
from mtseg.core.errors import UserError
from mtseg.inference.torch_network import description
from mtseg.model import checkpoints, weights
from mtseg.model.weights import initialise
from tests import tiny
from tests.scenes import make_tasks

FIXTURES = Path(__file__).parents[1] / "fixtures"
PUBLISHED = {
    "weights": None, "hidden_dim": 256, "num_heads": 8, "encoder_layers": 6, "encoder_feedforward_dim": 1024,
    "decoder_layers": 9, "decoder_feedforward_dim": 2048, "num_queries": 100, "freeze_norm": True,
}  # fmt: skip
COCO = tuple(category["name"] for category in COCO_CATEGORIES if category["isthing"])
HEAD = "sem_seg_head."
ENCODER = "pixel_decoder.transformer.encoder.layers"
PAIRS = {  # of equal shapes, so that a mix-up would load
    "pixel_decoder.input_proj.0.1.weight": "pixel_decoder.project.res5.1.weight",
    "pixel_decoder.input_proj.2.0.weight": "pixel_decoder.project.res3.0.weight",
    "pixel_decoder.input_proj.2.1.bias": "pixel_decoder.project.res3.1.bias",
    "pixel_decoder.transformer.level_embed": "pixel_decoder.level_embed",
    f"{ENCODER}.5.self_attn.value_proj.weight": "pixel_decoder.layers.5.attention.value.weight",
    f"{ENCODER}.5.self_attn.output_proj.weight": "pixel_decoder.layers.5.attention.out.weight",
    f"{ENCODER}.2.norm1.weight": "pixel_decoder.layers.2.attention_norm.weight",
    f"{ENCODER}.2.norm2.weight": "pixel_decoder.layers.2.feedforward_norm.weight",
    "pixel_decoder.adapter_1.norm.bias": "pixel_decoder.lateral.1.bias",
    "pixel_decoder.layer_1.norm.bias": "pixel_decoder.smooth.1.bias",
    "predictor.transformer_self_attention_layers.8.norm.weight": "decoder.layers.8.self_attention_norm.weight",
    "predictor.transformer_cross_attention_layers.8.norm.weight": "decoder.layers.8.cross_attention_norm.weight",
    "predictor.transformer_ffn_layers.8.norm.weight": "decoder.layers.8.feedforward_norm.weight",
    "predictor.decoder_norm.bias": "decoder.norm.bias",
    "predictor.query_feat.weight": "decoder.query_feature",
    "predictor.query_embed.weight": "decoder.query_position",
    "predictor.level_embed.weight": "decoder.level_embed",
    "predictor.mask_embed.layers.0.weight": "decoder.mask_embed.0.weight",
    "predictor.mask_embed.layers.2.weight": "decoder.mask_embed.4.weight",
    "predictor.class_embed.weight": "decoder.heads.head_shape.weight",
}  # fmt: skip


def official(name):
    """A state dict with FAIR's layout; each tensor has a different constant value, attention has random ones."""
    shapes = json.loads((FIXTURES / f"official_{name}_keys.json").read_text(encoding="utf-8"))
    torch.manual_seed(0)
    return {
        key: torch.randn(shape) / 16 if "attention_layers.4." in key else torch.full(shape, float(i))
        for i, (key, shape) in enumerate(shapes.items())
    }


def published(state):
    """The layout of published files: NumPy arrays, and the older name of queries."""
    return {key.replace("query_feat.", "static_query."): value.numpy() for key, value in state.items()}


def coco_tasks():
    (task,) = make_tasks(1)
    return (task.model_copy(update={"classes": COCO}),)


def fill(network, state, monkeypatch, **options):
    monkeypatch.setattr(weights, "read", lambda path: state)
    options = {"backbone": tiny.BACKBONE, "tasks": network.tasks} | options
    return initialise(network, "model_final.pkl", **options)


@pytest.mark.parametrize("fixture, backbone", [("r50", "resnet50"), ("swin_t", "swin_t")])
def test_every_tensor_of_fairs_networks_has_its_place(fixture, backbone, tmp_path):
    state = official(fixture)
    network = tiny.network(coco_tasks(), model=PUBLISHED | {"backbone": backbone}).eval()
    path = tmp_path / "model_final.pkl"
    path.write_bytes(pickle.dumps({"model": published(state), "__author__": "third_party"}))
    try:
        moved = initialise(network, str(path), backbone=backbone, tasks=network.tasks)
    finally:
        path.unlink()  # pytest keeps its folders
    assert moved.resized == moved.new == () and moved.unused == ("criterion.empty_weight",)

    own = network.state_dict()
    for theirs, ours in PAIRS.items():
        assert torch.equal(own[ours], state[HEAD + theirs]), theirs
    for key in state:
        if key.startswith("backbone.") and not key.endswith("relative_position_index"):
            assert torch.equal(own[key], state[key]), key

    x, memory = torch.randn(1, 100, 256), torch.randn(1, 30, 256)
    for kind, module, given in (("self", "self_attn", x), ("cross", "multihead_attn", memory)):
        theirs = nn.MultiheadAttention(256, 8, batch_first=True)
        prefix = f"{HEAD}predictor.transformer_{kind}_attention_layers.4.{module}."
        theirs.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
        ours = getattr(network.decoder.layers[4], f"{kind}_attention")
        with torch.no_grad():
            torch.testing.assert_close(ours(x, given, given), theirs(x, given, given)[0])


def test_the_oldest_of_fairs_keys_lack_the_pixel_decoder(monkeypatch):
    state = official("r50")
    old = {key.replace(f"{HEAD}pixel_decoder.", HEAD): value for key, value in state.items()}
    assert old.keys() != state.keys()
    assert checkpoints.convert(old).keys() == checkpoints.convert(state).keys()


def test_cocos_classes_land_by_name_in_any_order(tmp_path):
    """From a file of Hugging Face; `classes: auto` sorts by name, COCO by id."""
    setting = networks.TINY
    theirs = networks.reference(setting)
    theirs.save_pretrained(tmp_path)
    expected = networks.copy_of(theirs, setting).state_dict()
    size = {key: getattr(setting, key) for key in vars(setting) if key in type(tiny.PARAMS.model).model_fields}
    (task,) = coco_tasks()
    for classes in (COCO, tuple(sorted(COCO)), (*sorted(COCO)[:-1], "unicorn")):
        tasks = (task.model_copy(update={"name": "main", "classes": classes}),)
        network = tiny.network(tasks, model=size | {"backbone": "resnet50"})
        before = network.state_dict()["decoder.heads.head_main.weight"].clone()
        moved = initialise(network, str(tmp_path / "model.safetensors"), backbone="resnet50", tasks=tasks)
        assert moved.new == moved.misfits == () and moved.unused == ("criterion.empty_weight",)
        state = network.state_dict()
        known = [i for i, name in enumerate(classes) if name in COCO] + [80]
        there = [COCO.index(classes[i]) for i in known[:-1]] + [80]
        for key, value in expected.items():
            if key.startswith("decoder.heads."):
                assert torch.equal(state[key][known], value[there])
            else:
                assert torch.equal(state[key], value), key
        new = [i for i in range(80) if i not in known]
        assert torch.equal(state["decoder.heads.head_main.weight"][new], before[new])


def test_a_head_with_as_many_classes_of_other_names_gives_no_object_alone(monkeypatch):
    (task,) = coco_tasks()
    tasks = (task.model_copy(update={"classes": tuple(f"class{i}" for i in range(80))}),)
    network = tiny.network(tasks, model=PUBLISHED | {"backbone": "resnet50"})
    state = official("r50")
    before = network.state_dict()[f"decoder.heads.head_{task.name}.weight"].clone()
    fill(network, state, monkeypatch, backbone="resnet50")
    after = network.state_dict()[f"decoder.heads.head_{task.name}.weight"]
    assert torch.equal(after[:-1], before[:-1])
    assert torch.equal(after[-1], state[f"{HEAD}predictor.class_embed.weight"][-1])


def test_fairs_weights_fill_a_network_of_other_tasks(monkeypatch):
    """Of a head with other classes only no-object is copied; of 100 queries the first few."""
    state = official("r50")
    tasks = make_tasks(3)
    network = tiny.network(tasks, model=PUBLISHED | {"backbone": "resnet50", "num_queries": 30, "decoder_layers": 3})
    before = {key: value.clone() for key, value in network.state_dict().items()}
    moved = fill(network, state, monkeypatch, backbone="resnet50")
    after = network.state_dict()

    main = f"decoder.heads.head_{tasks[0].name}."
    assert set(moved.resized) == {"decoder.query_feature", "decoder.query_position", f"{main}weight", f"{main}bias"}
    assert torch.equal(after["decoder.query_position"], state[f"{HEAD}predictor.query_embed.weight"][:30])
    assert torch.equal(after[f"{main}weight"][-1], state[f"{HEAD}predictor.class_embed.weight"][-1])
    assert torch.equal(after[f"{main}weight"][:-1], before[f"{main}weight"][:-1])
    further = {f"decoder.heads.head_{task.name}.{part}" for task in tasks[1:] for part in ("weight", "bias")}
    assert set(moved.new) == further
    assert all(torch.equal(after[key], before[key]) for key in further)
    assert sum("decoder.layers.8." in key for key in moved.unused) == 26
    assert "resized    4" in str(moved) and "new        4" in str(moved)


def write(path, tasks, **model):
    """A checkpoint as saved by training, with norms and biases that differ from their initial values."""
    network = tiny.network(tasks, seed=1, model=model)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.uniform_(-1, 1)
    tiny.save(path, network, description(tasks, tiny.params(model=model).model))
    return network


@pytest.mark.parametrize("count", [1, 3, 4])
def test_a_checkpoint_of_this_project_fills_the_same_network_wholly(count, tmp_path):
    tasks = make_tasks(count)
    trained = write(tmp_path / "best.safetensors", tasks)
    again = tiny.network(tasks, model={"weights": str(tmp_path / "best.safetensors")})
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in trained.state_dict().items())
    moved = initialise(again, str(tmp_path / "best.safetensors"), backbone=tiny.BACKBONE, tasks=tasks)
    assert moved.resized == moved.new == moved.unused == ()


def test_classes_carry_over_by_name_and_queries_by_number(tmp_path):
    first, second, third = make_tasks(3)
    trained = write(tmp_path / "best.safetensors", (first, second)).state_dict()
    tasks = (
        first.model_copy(update={"classes": ("star", "hexagon", "circle", "square")}),
        third,
        second.model_copy(update={"background": False}),
    )
    network = tiny.network(tasks, model={"num_queries": 9})
    before = {key: value.clone() for key, value in network.state_dict().items()}
    moved = initialise(network, str(tmp_path / "best.safetensors"), backbone=tiny.BACKBONE, tasks=tasks)
    after = network.state_dict()

    head = f"decoder.heads.head_{first.name}.weight"
    assert first.classes == ("circle", "square", "star")
    assert torch.equal(after[head][[2, 3, 0, 4]], trained[head])
    assert torch.equal(after[head][1], before[head][1])
    head = f"decoder.heads.head_{second.name}.weight"
    assert torch.equal(after[head], trained[head][:-1])
    assert torch.equal(after["decoder.query_feature"][:6], trained["decoder.query_feature"])
    assert torch.equal(after["decoder.query_feature"][6:], before["decoder.query_feature"][6:])
    assert len(moved.resized) == 6 and moved.unused == ()
    assert set(moved.new) == {f"decoder.heads.head_{third.name}.{part}" for part in ("weight", "bias")}


@pytest.mark.parametrize(
    "change, message",
    [
        ({"hidden_dim": 64}, r"beyond the backbone, \d+ of \d+ .*another shape \(.*set model's hidden_dim to 32"),
        ({"encoder_feedforward_dim": 48}, "3 have another shape .*set model's encoder_feedforward_dim to 32"),
        ({"decoder_feedforward_dim": 48}, "6 have another shape .*set model's decoder_feedforward_dim to 32"),
        ({"encoder_layers": 2}, "16 of the pixel decoder are missing"),
        ({"decoder_layers": 12}, "from another network: beyond the backbone"),
        ({"num_heads": 8}, "another number of attention heads, 48 outputs for 96: set model.num_heads"),
        (
            {"backbone": "mobilenetv3_large"},
            "does not contain the weights of 'mobilenetv3_large': 0 of its .* tensors fit",
        ),
    ],
    ids=str,
)
def test_a_file_that_fits_little_is_refused_unless_asked_for(change, message, tmp_path):
    tasks = make_tasks(1)
    write(tmp_path / "best.safetensors", tasks)
    change = change | {"weights": str(tmp_path / "best.safetensors")}
    with pytest.raises(UserError, match=message) as caught:
        tiny.network(tasks, model=change)
    assert "\n" not in str(caught.value)
    partial = change | {"partial_weights": True}
    if "num_heads" in change:  # other heads mean something else wherever the shapes are the same
        with pytest.raises(UserError, match=message):
            tiny.network(tasks, model=partial)
    else:
        tiny.network(tasks, model=partial)


def test_a_file_of_which_less_than_half_is_used_is_refused(tmp_path):
    tasks = make_tasks(1)
    write(tmp_path / "best.safetensors", tasks, decoder_layers=12)
    change = {"decoder_layers": 1, "weights": str(tmp_path / "best.safetensors")}
    with pytest.raises(UserError, match=r"(\d+) of \1 tensors fit \(the file has \d+\); 0 have another shape"):
        tiny.network(tasks, model=change)


def test_tensors_of_another_shape_have_a_row_of_the_table(tmp_path, capsys):
    tasks = make_tasks(1)
    write(tmp_path / "best.safetensors", tasks)
    change = {"encoder_feedforward_dim": 48, "partial_weights": True, "weights": str(tmp_path / "best.safetensors")}
    tiny.network(tasks, model=change)
    table = capsys.readouterr().out
    assert "misfits    3  pixel_decoder.layers.0.feedforward.inner.bias [32] for [48]," in table
    assert "unused     0" in table


def test_a_file_that_training_deletes_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in ("models/best.safetensors", "./x/../models/best.safetensors", str(tmp_path / "models/best.pth")):
        with pytest.raises(ValidationError, match="empties before training: copy it elsewhere first"):
            tiny.params(model={"weights": path})
    for path in ("models.safetensors", "data/models/best.safetensors", "imagenet", None):
        tiny.params(model={"weights": path, "freeze_norm": False})


def test_tensors_of_odd_shapes_or_missing_give_one_line(monkeypatch):
    key = f"{HEAD}predictor.transformer_cross_attention_layers.0.multihead_attn.in_proj_bias"
    network = tiny.network(make_tasks(1))
    with pytest.raises(UserError, match="is broken"):
        fill(network, {key: torch.zeros(())}, monkeypatch)


def test_a_file_of_which_nothing_fits_is_refused_even_then(monkeypatch):
    network = tiny.network(make_tasks(1))
    with pytest.raises(UserError, match="has nothing that fits"):
        fill(network, {"something": torch.zeros(1)}, monkeypatch, partial=True)


def test_a_classifier_fills_the_backbone_alone(capsys):
    network = tiny.network(make_tasks(1), model={"backbone": "efficientnet_lite0", "weights": "imagenet"})
    table = capsys.readouterr().out
    assert table.startswith("weights of efficientnet-lite0") and "new        0" in table
    assert network.backbone.body.conv_stem.weight.abs().max() > 0.5
