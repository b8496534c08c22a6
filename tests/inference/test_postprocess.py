"""Detections become rows: masks, boxes and labels of the same detection stay together."""

import numpy as np
import pytest
import torch

from mtseg.core.masks import mask
from mtseg.inference.postprocess import encode
from mtseg.inference.torch_network import as_detections
from tests import tiny
from tests.scenes import make_tasks

SEEN = [(0, 0, 0), (1, 1, 2), (2, 0, 1)]


@pytest.fixture(params=["softmax", "combinations"])
def network(request):
    return tiny.network(make_tasks(3, background=False), seen=SEEN if request.param == "combinations" else ()).eval()


@pytest.fixture
def found(network):
    """Detections with masks of chance, of which queries share theirs."""
    ((found, _),) = network([tiny.example(network.tasks, 0)])
    found.remove("mask")
    masks = torch.rand(network.num_queries, *found.image_size, generator=torch.Generator().manual_seed(0)) > 0.9
    found.pred_masks = masks[found.query]
    return found


def rows(found, network, image_id=1):
    _, first, mask = np.unique(found.query.numpy(), return_index=True, return_inverse=True)
    fields = {name: values.numpy() for name, values in found.get_fields().items()} | {"mask": mask}
    masks_NWH = found.pred_masks[first].transpose(1, 2).numpy()
    return encode(as_detections(fields, masks_NWH, network.tasks), image_id, network.tasks)


def test_rows_are_the_detections_in_their_order(network, found):
    table = rows(found, network, 7)
    assert len(table) == len(found) and set(table.image_id) == {7}
    assert table.query.tolist() == found.query.tolist()
    assert len({*table.rle}) == len({*table.query.tolist()})
    for i, (rle, pixels) in enumerate(zip(table.rles(), found.pred_masks.numpy(), strict=True)):
        assert np.array_equal(mask(rle, *found.image_size), pixels)
        ys, xs = np.nonzero(pixels)
        assert table.area[i] == len(xs)
        assert table.box[i].tolist() == [xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1]
    assert np.array_equal(np.stack(list(table.labels.values()), axis=1), found.pred_labels.numpy())


def test_the_score_is_that_of_the_network_rounded(network, found):
    table = rows(found, network)
    assert table.score == pytest.approx(found.scores.numpy(), abs=2e-5)
    tasks = network.heads[0].tasks
    certainty = np.prod([table.probability[task.name] for task in tasks], axis=0)
    assert np.array_equal(table.score, (certainty * table.mask_quality).round(5))


def test_an_empty_mask_gives_no_row(network, found):
    empty = found.query == found.query[0]
    found.pred_masks[empty] = False
    table = rows(found, network)
    assert table.query.tolist() == found.query[~empty].tolist()
    found.pred_masks[:] = False
    nothing = rows(found, network)
    assert len(nothing) == 0 and set(nothing.names) == set(table.names)
    assert len(rows(found[[]], network)) == 0


def test_a_label_outside_the_task_is_a_bug_and_named(network, found):
    found.pred_labels[2, 1] = 2
    with pytest.raises(RuntimeError, match=r"returned label 2 for task 'colour' \(valid: 0..1\)"):
        rows(found, network)
