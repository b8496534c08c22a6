"""The probe of a network with one softmax over combinations: correct, with a head that ignores the image, and with
combinations of other data."""

from __future__ import annotations

import numpy as np
import PIL.Image
import pytest
import torch

from mtseg.diagnosis import probe
from mtseg.inference import torch_network
from tests.scenes import SIZE, make_tasks, scene
from tests.tiny import network, params, save

TASKS = make_tasks(3, background=False)
GIVEN = params(tasks=[task.model_dump() for task in TASKS], model={"unseen_combinations": 0.01})


def run(folder, seen, change=lambda model: None):
    """Findings of a network after `change`, whose checkpoint stores the combinations `seen(those of the images)`."""
    images, rng = scene(TASKS, count=8), np.random.default_rng(0)
    for image in images:
        noise = rng.integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8)
        PIL.Image.fromarray(noise).save(folder / image.file_name, quality=95)
    shown = sorted({tuple(i.labels[t.name] for t in TASKS) for image in images for i in image.instances})
    seen = seen(shown)
    model = network(TASKS, seen=seen, model={"unseen_combinations": 0.01})
    change(model)
    path = folder / "best.safetensors"
    save(path, model, {**torch_network.description(TASKS, GIVEN.model), "seen": seen, "step": 1})
    found = torch_network.predict(model, images, root=folder, input=GIVEN.input, batch=4, progress=False)
    return probe.probe(
        path, found, train=images, val=images, tasks=TASKS, model=GIVEN.model, input=GIVEN.input, root=folder,
        detections=100, batch=4, device="cpu",
    )[2]  # fmt: skip


@pytest.mark.parametrize(
    ("seen", "causes"),
    [(lambda shown: shown, []), (lambda shown: shown[1:], ["prior_wrong"]), (lambda shown: [], ["prior_wrong"])],
)
def test_combinations_of_other_data_are_named(tmp_path, seen, causes):
    assert [finding.cause for finding in run(tmp_path, seen)] == causes


def test_a_head_that_ignores_the_image_is_named(tmp_path, monkeypatch):
    from mtseg.model.decoder import QueryDecoder

    real = QueryDecoder.forward

    def blind(self, *given):
        output = real(self, *given)
        fixed = self.heads["head_colour"](self.query_feature + self.query_position).float()
        output.logits["colour"] = fixed.expand_as(output.logits["colour"])
        return output

    monkeypatch.setattr(QueryDecoder, "forward", blind)
    torch.manual_seed(0)
    found = run(tmp_path, lambda shown: shown)
    assert [(finding.cause, finding.where) for finding in found] == [("labels_ignore_image", "task 'colour'")]
