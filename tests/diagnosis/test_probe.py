"""The network is compared with its checkpoint, its backbone, and its predictions in other batches."""

from dataclasses import replace

import numpy as np
import PIL.Image
import pytest
import torch

from mtseg.diagnosis import probe
from mtseg.inference import torch_network
from tests.scenes import SIZE, make_tasks, scene
from tests.tiny import network, params, save

TASKS = make_tasks(3)
GIVEN = params()


@pytest.fixture
def trained(tmp_path):
    """(folder, checkpoint, images of noise, predictions of the checkpoint for them)."""
    images, rng = scene(TASKS, count=8), np.random.default_rng(0)
    for image in images:
        noise = rng.integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8)
        PIL.Image.fromarray(noise).save(tmp_path / image.file_name, quality=95)
    model = network(TASKS)
    path = tmp_path / "best.safetensors"
    save(path, model, {**torch_network.description(TASKS, GIVEN.model), "step": 1})
    found = torch_network.predict(model, images, root=tmp_path, input=GIVEN.input, batch=4, progress=False)
    return tmp_path, path, images, found


def run(trained, found=None):
    root, path, images, own = trained
    return probe.probe(
        path, own if found is None else found, train=images, val=images, tasks=TASKS, model=GIVEN.model,
        input=GIVEN.input, root=root, detections=100, batch=4, device="cpu",
    )  # fmt: skip


def test_a_correct_network_gives_no_finding(trained):
    train, val, findings = run(trained)
    assert not findings and len(train.images) == len(val.images) == 8
    assert probe.logit_change(val.predictions, trained[3]) == 0
    assert probe.logit_change(val.swapped, val.predictions) > 0, "the network sees other colours"


def test_predictions_of_other_weights(trained):
    other = {f"logits.{name}": logits + 1 for name, logits in trained[3].logits.items()}
    (finding,) = run(trained, trained[3].replace(**other))[2]
    assert finding.cause == "prediction_differs" and "dvc repro predict" in finding.change


def changed(monkeypatch, change):
    load = torch_network.load_model

    def other(*given, **named):
        model = load(*given, **named)
        change(model)
        return model

    monkeypatch.setattr(torch_network, "load_model", other)


def test_weights_that_are_not_the_checkpoints(trained, monkeypatch):
    changed(monkeypatch, lambda model: model.decoder.query_feature.data.add_(1))
    assert run(trained)[2][0].cause == "weights_not_loaded"


def test_another_normalisation_than_the_backbones(trained, monkeypatch):
    changed(monkeypatch, lambda model: model.pixel_mean.zero_())
    assert [finding.cause for finding in run(trained)[2]][0] == "normalisation"


def test_an_answer_that_depends_on_the_batch(trained, monkeypatch):
    def mixed(model):
        heads = model.decoder.forward

        def forward(*given):
            output = heads(*given)
            return replace(output, logits={n: 100 * (x - x.mean(1, True)) for n, x in output.logits.items()})

        model.decoder.forward = forward

    changed(monkeypatch, mixed)
    assert "answer_depends_on_batch" in [finding.cause for finding in run(trained)[2]]


@pytest.mark.parametrize("place", [0, -1])
@pytest.mark.parametrize("name", ["logits", "mask_features_BCHW"])
def test_one_output_alone_of_the_batchs_first_or_last_image(trained, monkeypatch, name, place):
    def mixed(model):
        detect = model.detect

        def other(output, batch):
            if name == "logits":  # of one task of three
                fill = 100 * output.logits["fill"]
                logits = output.logits | {"fill": fill[:, [place]].expand_as(fill)}
                return detect(replace(output, logits=logits), batch)
            features = output.mask_features_BCHW.clone()
            for b, example in enumerate(batch):  # so that masks differ by image: two columns
                at = 4 * (example["image_id"] % 4)
                features[b] = -10.0 * features[b].abs()
                features[b, :, :, at : at + 4] *= -1
            output = replace(output, mask_embed_LBQC=output.mask_embed_LBQC.abs())
            return detect(replace(output, mask_features_BCHW=features[[place]].expand_as(features)), batch)

        model.detect = other

    changed(monkeypatch, mixed)
    (finding,) = [finding for finding in run(trained)[2] if finding.cause != "prediction_differs"]
    assert finding.cause == ("labels_of_other_image" if name == "logits" else "masks_of_other_image")
    assert f"the batch's {'last' if place else 'first'}" in finding.change


def test_predictions_of_the_next_image_of_the_batch(trained, monkeypatch):
    def mixed(model):
        features = model.features
        model.features = lambda images: features(images.roll(1, 0))

    changed(monkeypatch, mixed)
    (finding,) = [finding for finding in run(trained)[2] if finding.cause != "prediction_differs"]
    assert finding.cause == "masks_of_other_image" and finding.severity == "error"


def test_masks_that_depend_on_the_size_of_the_batch(trained, monkeypatch):
    def mixed(model):
        detect = model.detect

        def other(output, batch):
            features = output.mask_features_BCHW
            inner = torch.zeros_like(features)
            inner[..., 2 * len(batch) :] = features[..., 2 * len(batch) :]
            return detect(replace(output, mask_features_BCHW=inner), batch)

        model.detect = other

    changed(monkeypatch, mixed)
    assert "answer_depends_on_batch" in [finding.cause for finding in run(trained)[2]]


def test_predictions_that_share_a_query_are_compared_one_by_one(trained):
    rows = np.arange(len(trained[3]), dtype=float)[:, None]
    found = trained[3].replace(**{f"logits.{name}": logits + rows for name, logits in trained[3].logits.items()})
    assert len(np.unique(np.column_stack([found.image_id, found.query]), axis=0)) < len(found)
    assert probe.logit_change(found, found) == probe.box_change(found, found) == 0
