"""Sampling locations of attention and point sampling, compared with hand-computed coordinates."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from mtseg.model import deformable
from mtseg.model.deformable import DeformableAttention, by_planes, by_rows, deformable_attention
from mtseg.model.layers import Attention
from mtseg.model.pixel_decoder import _pixel_centres
from mtseg.model.points import sample, uncertain_points, uniform
from tests import tiny
from tests.scenes import make_tasks


def bilinear(plane_HWD, x, y):
    """The value at (x, y) in 0..1; pixel centres lie at half pixels, and outside there is 0."""
    height, width, _ = plane_HWD.shape
    x, y = x * width - 0.5, y * height - 0.5
    total = torch.zeros_like(plane_HWD[0, 0])
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < height and 0 <= column < width:
                total += plane_HWD[row, column] * (1 - abs(x - column)) * (1 - abs(y - row))
    return total


def test_deformable_attention_equals_a_loop_over_every_sample():
    shapes = [(3, 5), (2, 4)]
    B, Q, M, L, P, D = 2, 3, 2, len(shapes), 2, 4
    draw = torch.Generator().manual_seed(0)
    value = torch.randn(B, sum(h * w for h, w in shapes), M, D, generator=draw)
    location = torch.rand(B, Q, M, L, P, 2, generator=draw) * 1.4 - 0.2  # some outside
    weight = torch.rand(B, Q, M, L, P, generator=draw)
    expected = torch.zeros(B, Q, M, D)
    for level, (part, (h, w)) in enumerate(zip(value.split([h * w for h, w in shapes], dim=1), shapes, strict=True)):
        for b, q, m, p in torch.cartesian_prod(*map(torch.arange, (B, Q, M, P))).tolist():
            read = bilinear(part[b, :, m].view(h, w, D), *location[b, q, m, level, p].tolist())
            expected[b, q, m] += weight[b, q, m, level, p] * read
    found = deformable_attention(value, shapes, location, weight)
    torch.testing.assert_close(found, expected.flatten(2), rtol=0, atol=1e-5)


def test_at_first_all_queries_sample_alike_with_equal_weights(monkeypatch):
    """The p-th point of a head lies p pixels away, in a direction of the head's own."""
    shapes, given = [(8, 16), (4, 8)], {}
    monkeypatch.setattr(
        deformable,
        "deformable_attention",
        lambda value, shapes, location, weight: (
            given.update(location=location, weight=weight) or value.flatten(2)[:, :5]
        ),
    )
    reference = torch.rand(5, 2)
    DeformableAttention(8, heads=4, levels=2, points=3)(torch.randn(1, 5, 8), reference, torch.randn(1, 160, 8), shapes)
    assert given["weight"].unique().tolist() == pytest.approx([1 / 6])
    size = torch.tensor([[w, h] for h, w in shapes])[:, None]
    pixels = (given["location"][0] - reference[:, None, None, None]) * size
    directions = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    expected = directions[:, None, None] * torch.arange(1, 4)[:, None]
    torch.testing.assert_close(pixels, expected.expand_as(pixels), rtol=0, atol=1e-4)


@pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="its gradients need MKL")
def test_sparse_products_equal_grid_sample():
    """With gradients, with points on pixels, on edges and far outside, and where a value is not a number."""
    shapes = [(3, 5), (2, 4)]
    draw = torch.Generator().manual_seed(0)
    value = torch.randn(2, 23, 2, 4, dtype=torch.float64, generator=draw)
    location = torch.rand(2, 6, 2, 2, 3, 2, dtype=torch.float64, generator=draw) * 1.6 - 0.3
    location[:, 0] = torch.tensor([0.5 / 8, 0.5])
    location[:, 1] = 1e12 * (location[:, 1] - 0.5)
    location[:, 2] = location[:, 2].round()
    weight = torch.rand(2, 6, 2, 2, 3, dtype=torch.float64, generator=draw)
    found = []
    for form in (by_planes, by_rows):
        given = [x.clone().requires_grad_() for x in (value, location, weight)]
        total = form(given[0], shapes, *given[1:])
        found.append((total, *torch.autograd.grad(total.sin().sum(), given)))
        with torch.no_grad():
            torch.testing.assert_close(form(value, shapes, location, weight), total)
    torch.testing.assert_close(found[1], found[0])

    location[0, 4, 1, 0, 2, 0] = torch.nan
    total = by_rows(value, shapes, location.requires_grad_(), weight).unflatten(2, (2, 4))
    assert total[0, 4, 1].isnan().all() and total.isnan().sum() == 4
    total.sum().backward()


def test_pixel_centres_are_x_then_y_row_by_row():
    expected = [(1 / 6, 1 / 4), (3 / 6, 1 / 4), (5 / 6, 1 / 4), (1 / 6, 3 / 4), (3 / 6, 3 / 4), (5 / 6, 3 / 4)]
    torch.testing.assert_close(_pixel_centres(2, 3, torch.device("cpu")), torch.tensor(expected))


def test_offsets_are_pixels_x_then_y():
    """An offset of one pixel to the right gives the value of that neighbour, and 0 at the right edge."""
    attention = DeformableAttention(1, heads=1, levels=1, points=1)
    attention.offset.bias.data = torch.tensor([1.0, 0.0])
    for projection in (attention.value, attention.out):
        nn.init.ones_(projection.weight)
    image = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    memory = image.view(1, 6, 1)
    found = attention(torch.zeros(1, 6, 1), _pixel_centres(2, 3, memory.device), memory, [(2, 3)])
    torch.testing.assert_close(found.view(2, 3), torch.tensor([[2.0, 3.0, 0.0], [5.0, 6.0, 0.0]]))


def test_a_query_attends_to_its_own_mask_or_everywhere():
    decoder = tiny.network(make_tasks(1)).decoder
    decoder.mask_embed = nn.Identity()
    features = torch.tensor([[[3.0, -1.0, 2.0], [-1.0, -1.0, -1.0]]])  # two channels: one for each query
    mask = decoder._attention_mask(torch.eye(2)[None], features)
    assert mask.tolist() == [[[True, False, True], [True, True, True]]]


def test_a_hidden_pixel_changes_nothing():
    torch.manual_seed(0)
    attention = Attention(8, heads=2)
    query, memory = torch.randn(1, 2, 8), torch.randn(1, 3, 8)
    mask = torch.tensor([[[True, False, True], [True, True, True]]])
    changed = memory.clone()
    changed[:, 1] += 1
    before, after = attention(query, memory, memory, mask)[0], attention(query, changed, changed, mask)[0]
    assert torch.equal(before[0], after[0]) and not torch.allclose(before[1], after[1], atol=1e-3)


def test_attention_starts_in_the_range_of_the_official_one():
    """The official code uses Xavier initialisation of nn.MultiheadAttention's matrix [3C, C] of query, key and
    value."""
    torch.manual_seed(0)
    ours, official = Attention(64, heads=2), nn.MultiheadAttention(64, 2)
    for parameter in official.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)
    expected = (*official.in_proj_weight.chunk(3), official.out_proj.weight)
    for projection, weight in zip((ours.query, ours.key, ours.value, ours.out), expected, strict=True):
        assert projection.weight.abs().max().item() == pytest.approx(weight.abs().max().item(), rel=0.01)
    assert not any(projection.bias.any() for projection in (ours.query, ours.key, ours.value, ours.out))


def test_uncertain_points_of_a_disc_lie_near_its_edge():
    torch.manual_seed(0)
    y, x = torch.meshgrid(torch.linspace(-1, 1, 65), torch.linspace(-1, 1, 65), indexing="ij")
    disc = (0.6 - (x**2 + y**2).sqrt())[None]
    loss = tiny.PARAMS.loss.model_copy(update={"num_points": 200, "oversample": 3.0, "importance": 1.0})
    points = uncertain_points(disc, loss)
    assert sample(disc[:, None], points).abs().max() < 0.2  # the third of the square nearest to the edge
    random = uncertain_points(disc, loss.model_copy(update={"importance": 0.0}))
    assert sample(disc[:, None], random).abs().max() > 0.4


@pytest.mark.parametrize(("before", "rows", "after"), [(0, 6, 0), (0, 2, 4), (4, 2, 0), (1, 3, 2)])
def test_a_process_draws_the_points_that_one_process_draws_for_its_images(before, rows, after):
    torch.manual_seed(0)
    whole = torch.rand(6, 3, 2)
    torch.manual_seed(0)
    own = uniform(rows, 3, 2, device=torch.device("cpu"), before=before, after=after)
    assert torch.equal(own, whole[before : before + rows])
    state = torch.get_rng_state()
    torch.manual_seed(0)
    assert torch.equal(uniform(6, 3, 2, device=torch.device("cpu")), whole)
    assert torch.equal(torch.get_rng_state(), state), "nothing more is drawn"


def test_an_image_without_objects_has_no_uncertain_points():
    loss = tiny.PARAMS.loss.model_copy(update={"num_points": 7})
    assert uncertain_points(torch.zeros(0, 8, 8), loss).shape == (0, 7, 2)


def test_a_map_has_its_values_at_the_centres_of_its_cells():
    maps = torch.rand(2, 3, 4, 5)
    y, x = torch.meshgrid((torch.arange(4) + 0.5) / 4, (torch.arange(5) + 0.5) / 5, indexing="ij")
    points = torch.stack([x, y], dim=-1).flatten(0, 1).expand(2, -1, -1)
    torch.testing.assert_close(sample(maps, points), maps.flatten(2))


def test_autocast_moves_no_place_that_the_pixel_decoder_reads(monkeypatch):
    """In bfloat16, locations in an input of 1024 pixels would be off by a quarter of a pixel."""
    tasks = make_tasks(1)
    network = tiny.network(tasks).eval()
    image = tiny.example(tasks, 0)
    with torch.no_grad():
        features = {name: x.bfloat16() for name, x in network.backbone(torch.rand(1, 3, 64, 64)).items()}
    monkeypatch.setattr(network.backbone, "forward", lambda images: features)
    seen = []

    def spy(value, shapes, location, weight):
        seen.append(location)
        return deformable_attention(value, shapes, location, weight)

    monkeypatch.setattr(deformable, "deformable_attention", spy)
    with torch.no_grad():
        expected = network.queries([image])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = network.queries([image])
    assert all(location.dtype == torch.float32 for location in seen)
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(found.mask_features_BCHW, expected.mask_features_BCHW)
    assert found.mask_embed_LBQC.dtype == torch.float32
    assert all(logits.dtype == torch.float32 for logits in found.logits.values())
    assert not torch.equal(found.mask_embed_LBQC, expected.mask_embed_LBQC), "autocast was off everywhere"
