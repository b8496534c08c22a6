"""Heads: stored columns, and a head for multi-label attributes that is defined only here."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pycocotools import mask as coco_mask
from scipy import special
from torch import nn

from mtseg.checks import known_answers, step
from mtseg.checks.network import dependence, heads
from mtseg.core.tables import UNLABELLED, Image, Instance, Predictions
from mtseg.evaluation.ap import scores
from mtseg.evaluation.ap.evaluation import Evaluation
from mtseg.inference.postprocess import encode
from mtseg.inference.torch_network import detect
from mtseg.model.heads import Combinations, Head, Heads, Softmax
from mtseg.model.mask2former import Mask2Former
from tests import tiny
from tests.scenes import images_of, make_tasks


class Sigmoids(Head):
    """Attributes that an object has or not: an output for each, and a class for each set of them, whose index has the
    bit of each attribute in it."""

    def outputs(self, task):
        return (task.num_classes - 1).bit_length()

    def bits(self, task):
        return (torch.arange(task.num_classes)[:, None] >> torch.arange(self.outputs(task))) & 1  # [classes, outputs]

    def class_logits(self, logits):
        return {task.name: logits[task.name] @ self.bits(task).T.to(logits[task.name]) for task in self.tasks}

    def losses(self, logits, labels_MT, matched, *, no_object):
        found = {}
        for task, label_M in zip(self.tasks, labels_MT.unbind(-1), strict=True):
            x_MK, known = logits[task.name][matched], label_M != UNLABELLED
            bits_MK = self.bits(task).to(x_MK)[label_M.clamp(min=0)]
            weight_M = x_MK.new_tensor(task.weights)[label_M.clamp(min=0)] * known
            each_M = weight_M * F.binary_cross_entropy_with_logits(x_MK, bits_MK, reduction="none").sum(-1)
            found[task.name] = x_MK.new_zeros(len(logits[task.name])).index_add(0, matched[0], each_M)
        return found

    def logits_of(self, labels_T, strength):
        bits = [
            self.bits(task)[label.clamp(min=0)] for task, label in zip(self.tasks, labels_T.unbind(-1), strict=True)
        ]
        return {task.name: strength * (2.0 * own - 1) for task, own in zip(self.tasks, bits, strict=True)}


@pytest.fixture(scope="module")
def trained():
    """A network with a softmax for the main task and sigmoids for another, trained on two images, and its losses."""
    main, further = make_tasks(2, background=False)
    marks = further.model_copy(update={"name": "marks", "classes": ("none", "bolt", "dent", "bolt and dent")})
    tasks, given = (main, marks), tiny.params(loss={"num_points": 256})
    torch.manual_seed(0)
    network = Mask2Former(tasks, given.model, loss=given.loss, heads=[Softmax([main]), Sigmoids([marks])])
    batch = [tiny.example(tasks, 2, seed=seed) | {"height": tiny.SIDE, "width": tiny.SIDE} for seed in range(2)]
    batch[0]["instances"].gt_labels[:, 1] = torch.tensor([0, 3])  # the other image has 3, and 1
    optimizer, history = torch.optim.AdamW(network.parameters(), lr=2e-3), []
    for _ in range(60):
        losses = network(batch)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 0.1)
        optimizer.step()
        history.append({name: float(value.detach()) for name, value in losses.items()})
    return network.eval(), batch, history


def test_a_head_defined_here_trains_predicts_and_is_evaluated(trained):
    network, batch, history = trained
    last = f"loss_marks_{len(network.decoder.layers)}"
    assert network.decoder.heads["head_marks"].out_features == 2
    assert 5 * history[-1][last] < history[0][last]
    images, parts = [], []
    for example, found in zip(batch, detect(network, batch), strict=True):
        parts.append(encode(found, example["image_id"], network.tasks))
        rles = [packed(mask) for mask in example["instances"].gt_masks.tensor]
        labels = [dict(zip(("shape", "marks"), row, strict=True)) for row in example["instances"].gt_labels.tolist()]
        boxes, areas = coco_mask.toBbox(rles).tolist(), coco_mask.area(rles).tolist()
        instances = map(Instance, rles, map(tuple, boxes), areas, labels)
        images.append(Image(example["image_id"], example["file_name"], tiny.SIDE, tiny.SIDE, tuple(instances)))
    images, predictions = images_of(images, network.tasks), Predictions.concatenate(parts)
    metrics = scores.metrics(Evaluation(images, predictions, tasks=network.tasks, ranking="product_quality"))
    assert metrics["tasks"]["marks"]["accuracy"] == 100 and metrics["joint"]["AP50"] == 100


def test_the_checks_before_training_accept_it(trained):
    network, batch, _ = trained
    findings = [*heads(network), *known_answers.check(network), *dependence(network, batch)]
    assert findings + step.check(network, batch, solver=tiny.params().solver) == []


def packed(mask):
    rle = coco_mask.encode(np.asfortranarray(mask.numpy().astype(np.uint8)))
    return rle | {"counts": rle["counts"].decode()}


def test_what_the_defaults_make_of_class_logits_is_the_product_of_sigmoids(trained):
    network, batch, _ = trained
    with torch.no_grad():
        logits = network.queries(batch).logits
    of_marks = network.heads.probabilities(logits, torch.tensor([[[0, 2]], [[0, UNLABELLED]]]))[1]
    bolt, dent = logits["marks"].sigmoid().unbind(-1)
    torch.testing.assert_close(of_marks[:, 0, :, 0], ((1 - bolt) * dent)[:, 0])
    assert (of_marks[:, 1] == 1).all()
    for found, _ in network(batch):
        bits = found.logits_marks[:, 1:3] > 0
        assert torch.equal(found.pred_labels[:, 1], bits[:, 0] + 2 * bits[:, 1])


SEEN = [(0, 0, 0), (0, 1, 2), (1, 0, 1), (2, 1, 0)]


@pytest.mark.parametrize("seen", [(), SEEN])
def test_the_columns_stored_are_those_of_rounded_logits(seen):
    tasks = make_tasks(3, background=False)
    network = tiny.network(tasks, seen=seen, model={"unseen_combinations": 0.1}).eval()
    for layer in network.decoder.heads.values():
        nn.init.normal_(layer.weight)
    with torch.no_grad():
        ((found, _),) = network([tiny.example(tasks, 0)])
    (detections,) = detect(network, [tiny.example(tasks, 0)])
    table = encode(replace(detections, masks=np.ones_like(detections.masks)), 1, tasks)  # every detection has a row
    columns = {name: table.column(name) for name in table.names}
    row = np.arange(len(found))
    for t, task in enumerate(tasks):
        label = found.pred_labels[:, t].numpy()
        logits = np.round(found.get(f"logits_{task.name}").numpy().astype(np.float64), 5)
        own = {name: columns[f"{name}.{task.name}"] for name in ("labels", "logits", "probability", "logit")}
        assert np.array_equal(own["logits"], logits) and np.array_equal(own["labels"], label)
        probabilities = columns[f"probabilities.{task.name}"]
        np.testing.assert_allclose(probabilities, special.softmax(logits, axis=1), rtol=1e-12)
        if seen:
            np.testing.assert_allclose(own["probability"], found.probabilities[:, t].numpy(), rtol=1e-5)
            assert own["probability"].tolist() == [float(f"{p:.6g}") for p in own["probability"]]
            np.testing.assert_allclose(own["logit"], special.logit(own["probability"].clip(1e-7, 1 - 1e-7)))
        else:
            assert np.array_equal(own["probability"], probabilities[row, label])
            assert np.array_equal(own["logit"], logits[row, label])
    main = columns[f"probabilities.{tasks[0].name}"]
    assert main.shape == (len(found), tasks[0].num_classes + 1)


def test_heads_must_serve_the_tasks_in_their_order():
    tasks = make_tasks(2)
    with pytest.raises(ValueError, match=r"heads are for the tasks \['colour', 'shape'\], .* \['shape', 'colour'\]"):
        Mask2Former(tasks, tiny.params().model, heads=[Softmax(tasks[::-1])])


@pytest.mark.parametrize("head", [Softmax(make_tasks(3)), Combinations(make_tasks(3, False), SEEN, unseen=0.1)])
def test_heads_add_no_key_to_a_checkpoint(head):
    assert not Heads([head]).state_dict()


def test_outputs_for_a_label_predict_it_and_for_no_object_nothing():
    tasks = make_tasks(3, background=False)
    labels = torch.tensor([[0, 1, 2], [2, -1, 0], [-1, -1, -1], [1, 0, 1], [0, 1, -1]])
    for task, own in zip(tasks, labels.T, strict=True):
        (found,) = Softmax([task]).logits_of(own[:, None], 9.0).values()
        expected = torch.full((len(own), task.num_outputs), -9.0)
        for row, label in zip(expected, own, strict=True):
            if label >= 0 or task.background:  # no-object is the last output
                row[label] = 9.0
        assert torch.equal(found, expected)
