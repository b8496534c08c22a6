"""Images are compared with each other and with their annotations."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest

from mtseg.checks import alignment, tiles
from mtseg.checks import images as checked
from mtseg.checks.alignment import Outlines
from mtseg.core.errors import UserError
from mtseg.core.files import write_json
from mtseg.data import convert, manifest, shapes
from tests import tiny
from tests.scenes import images_of, make_tasks


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """(root, train, val, tasks) of a drawn data set."""
    folder = tmp_path_factory.mktemp("drawn")
    given = tiny.params(generate={"train": 60, "val": 40, "size": 96, "max_objects": 4}, data={"raw": folder / "raw"})
    shapes.generate(given.generate, folder / "raw", seed=0)
    convert.convert(given.data, given.tasks, folder / "coco", seed=0)
    write_json(folder / "manifest.json", manifest.build(folder / "coco"))
    records = manifest.load(folder / "manifest.json")
    train, val = (images_of(records.images(split), records.tasks(given.tasks)) for split in ("train", "val"))
    return folder / "raw", train, val, records.tasks(given.tasks)


def check(drawn, train=None, val=None, root=None):
    train, val = (images_of(given, drawn[3]) for given in (train or drawn[1], val or drawn[2]))
    return checked.check(train, {"val": val}, root=root or drawn[0], tasks=drawn[3], input=tiny.params().input)


def causes(*args, **kwargs):
    return {(finding.cause, finding.where) for finding in check(*args, **kwargs)}


def outlined(images, move):
    """The images with `move(points [N, 2], image)` for every polygon."""

    def moved(one, image):
        polygons = [move(np.reshape(polygon, (-1, 2)), image).ravel().tolist() for polygon in one.segmentation]
        return replace(one, segmentation=polygons)

    return [replace(image, instances=tuple(moved(one, image) for one in image.instances)) for image in images]


def changed(drawn, tmp_path, split, change, count=None):
    """A copy of the raw folder in which `change(pixels)` was applied to the first `count` images of a split, or all."""
    shutil.copytree(drawn[0], tmp_path / "raw")
    for path in sorted((tmp_path / "raw" / split).glob("*.jpg"))[:count]:
        pixels = np.ascontiguousarray(change(np.asarray(PIL.Image.open(path))))
        PIL.Image.fromarray(pixels).save(path, quality=92, subsampling=0)
    return tmp_path / "raw"


def test_correct_images_give_no_finding(drawn):
    assert not causes(drawn)


@pytest.mark.parametrize(("different", "expected"), [(12, {("images_repeated", "train")}), (40, set())])
def test_copies_within_train_are_found_and_not_compared_with_val(drawn, tmp_path, different, expected):
    root, train, *_ = drawn
    shutil.copytree(root, tmp_path / "raw")
    copies = [replace(train[row % different], id=own.id, file_name=own.file_name) for row, own in enumerate(train)]
    for row, own in enumerate(train):
        shutil.copy(root / train[row % different].file_name, tmp_path / "raw" / own.file_name)
    assert causes(drawn, train=copies, root=tmp_path / "raw") == expected


@pytest.mark.parametrize("copies", [1, 40])
def test_images_of_train_in_val_are_found_by_name_and_by_sight(drawn, tmp_path, copies):
    root, train, val, _ = drawn
    assert causes(drawn, val=[*val[copies:], *train[:copies]]) == {("split_leak", None)}
    shutil.copytree(root, tmp_path / "raw")
    renamed = [replace(image, file_name=f"val/copy{image.id}.jpg") for image in train[:copies]]
    for image, copy in zip(train, renamed, strict=False):
        pixels = PIL.Image.open(root / image.file_name)
        pixels.save(tmp_path / "raw" / copy.file_name, quality=60)
    found = check(drawn, val=[*val[copies:], *renamed], root=tmp_path / "raw")
    assert [finding.cause for finding in found] == ["split_leak"]
    assert found[0].evidence.startswith(f"{copies} of 40 val images")


def test_images_of_train_that_were_copied_over_those_of_val_are_no_displaced_outlines(drawn, tmp_path):
    shutil.copytree(drawn[0], tmp_path / "raw")
    for image in drawn[2][:12]:
        name = image.file_name
        shutil.copy(tmp_path / "raw" / name.replace("val", "train"), tmp_path / "raw" / name)
    assert causes(drawn, root=tmp_path / "raw") == {("split_leak", None)}


@pytest.mark.parametrize("alike", [0.0, 0.7])
def test_shifted_copies_are_found_as_neighbouring_frames(alike):
    """alike: share of a scene that all images have in common, as X-rays do."""
    rng = np.random.default_rng(0)

    def scenes(count):
        small = rng.integers(0, 256, (count, 10, 10, 3), dtype=np.uint8)
        return np.stack([PIL.Image.fromarray(one).resize((40, 40), PIL.Image.Resampling.BICUBIC) for one in small])

    common = scenes(1)
    train, val = ((alike * common + (1 - alike) * scenes(count)).astype(np.uint8) for count in (60, 20))
    val[3] = train[7]
    own = checked.Thumbnails("train", [f"train/{i}" for i in range(60)], train[:, 4:36, 4:36], [])
    other = checked.Thumbnails("val", [f"val/{i}" for i in range(20)], val[:, 1:33, 2:34], [])
    found = checked.shifted(own, other)
    assert found == {"val/3": "train/7, shifted"}
    (finding,) = checked.leaks(own, other)
    assert finding.cause == "split_leak" and "val/3 as train/7, shifted" in finding.evidence


@pytest.mark.parametrize("copied", ["train", "val"])
def test_copies_in_the_test_split_are_found_in_train_and_in_val(drawn, tmp_path, copied):
    root, train, val, tasks = drawn
    shutil.copytree(root, tmp_path / "raw")
    source = {"train": train, "val": val}[copied]
    copies = [replace(image, file_name=f"test/{image.id}.jpg") for image in source[:3]]
    (tmp_path / "raw/test").mkdir()
    for image, copy in zip(source, copies, strict=False):
        PIL.Image.open(root / image.file_name).save(tmp_path / "raw" / copy.file_name, quality=60)
    splits = {"val": images_of(val, tasks), "test": images_of(copies, tasks)}
    (found,) = checked.check(
        images_of(train, tasks), splits, root=tmp_path / "raw", tasks=tasks, input=tiny.params().input
    )
    assert (found.cause, found.severity, found.where) == ("split_leak", "warning", "test")
    assert found.evidence.startswith(f"3 of 3 test images have copies or near-copies in {copied}")


def test_annotations_that_are_shifted_are_found_before_training(drawn):
    shifted = outlined(drawn[1], lambda points, image: points + (7, -4))
    assert causes(drawn, train=shifted) == {("masks_displaced", "train")}


def centre_kept(by):
    return lambda points, image: points.mean(0) + (points - points.mean(0)) * by


def middle(image):
    return np.array([image.width, image.height]) / 2


def tilted(points, image):
    y, x = np.sin(np.pi / 12), np.cos(np.pi / 12)
    return (points - middle(image)) @ np.array([[x, y], [-y, x]]) + middle(image)


@pytest.mark.parametrize(
    ("cause", "change"),
    [
        ("masks_mirrored", lambda points, image: points * (1, -1) + (0, image.height)),
        ("masks_transposed", lambda points, image: points[:, ::-1]),
        ("masks_displaced", lambda points, image: points * (1, 0.8)),
        ("masks_displaced", lambda points, image: (points + (image.width / 2, 0)) % (image.width, 1e6)),
        ("images_turned", tilted),
        ("outlines_differ", centre_kept(1.3)),
    ],
)
def test_outlines_of_a_part_that_fit_after_a_change_are_found(drawn, cause, change):
    some = [*outlined(drawn[2][::4], change), *(image for row, image in enumerate(drawn[2]) if row % 4)]
    assert causes(drawn, val=some) == {(cause, "val")}
    if change is tilted:
        assert "turned by 15 degrees counter-clockwise" in check(drawn, val=some)[0].evidence
    if cause == "masks_mirrored":
        some = [*outlined(drawn[1][::3], change), *(image for row, image in enumerate(drawn[1]) if row % 3)]
        assert causes(drawn, train=some) == {(cause, "train")}


def test_boxes_of_all_splits_are_found_unless_edges_lie_on_them(drawn):
    def box(points, image):
        (x0, y0), (x1, y1) = points.min(0), points.max(0)
        return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])

    train, val = (outlined(images, box) for images in drawn[1:3])
    assert {("boxes_for_outlines", "train"), ("boxes_for_outlines", "val")} <= causes(drawn, train=train, val=val)
    assert alignment.inset(alignment.sample(images_of(val, drawn[3]), root=drawn[0]))
    assert alignment.inset(alignment.sample(drawn[2], root=drawn[0])) is None


def test_outlines_of_the_image_before_besides_or_instead_of_its_own_are_found(drawn):
    val = drawn[2]
    instead = [
        replace(image, instances=(val[row - row % 2 * (row % 3 == 1)]).instances) for row, image in enumerate(val)
    ]
    assert causes(drawn, val=instead) == {("masks_of_other_image", "val")}
    exchanged = [replace(image, instances=val[row ^ (row % 8 < 4)].instances) for row, image in enumerate(val)]
    (found,) = check(drawn, val=exchanged)
    assert found.cause == "masks_of_other_image" and "1 before or 1 further on" in found.evidence
    order = np.random.default_rng(0).permutation(len(val))
    order = [other if row % 6 else row for row, other in enumerate(order.tolist())]
    anyhow = [replace(image, instances=val[order[row]].instances) for row, image in enumerate(val)]
    (found,) = check(drawn, val=anyhow)
    assert found.cause == "masks_of_other_image" and "no regular order" in found.evidence
    both = [
        image if row % 3 else replace(image, instances=(*image.instances, *val[row - 1].instances))
        for row, image in enumerate(val)
    ]
    assert causes(drawn, val=both) == {("masks_of_other_image", "val")}
    small = [replace(image, instances=(*image.instances, *map(speck, image.instances))) for image in val]
    assert causes(drawn, val=small) <= {("outlines_differ", "val")}, "specks lie on edges of any image"


def speck(instance):
    points = np.reshape(instance.segmentation[0], (-1, 2)).min(0) + [[0, 0], [3, 0], [3, 3], [0, 3]]
    return replace(instance, segmentation=[points.ravel().tolist()])


def test_outlines_that_are_the_same_in_all_images_are_not_those_of_another(drawn):
    """As those of a lot or a gauge under a fixed camera."""
    one = alignment.sample(images_of(drawn[1][:1], drawn[3]), root=drawn[0])
    assert not alignment.check(one * alignment.FEWEST, "train")


def test_outlines_of_crowded_images_are_not_taken_for_the_same(drawn):
    """They cover most of an image, and so most of the outlines of another."""
    grid = np.mgrid[4:92:5, 4:92:5].reshape(2, -1).T
    rng, names = np.random.default_rng(0), iter(map(str, range(99)))

    def crowded():
        points = np.concatenate([grid + rng.integers(-2, 3, grid.shape) + step for step in ((0, 0), (0, 1), (1, 0))])
        edges, one = rng.random((96, 96)), np.zeros(len(points), dtype=int)
        return Outlines(
            edges, points, np.zeros((1, 3)), [{}], np.zeros(len(alignment.OFFSETS)), next(names), one, one[:1]
        )

    assert 0 < crowded().drawn_as(crowded()) < alignment.SAME_PLACES / 2
    (found,) = alignment.check([crowded() for _ in range(25)], "train")
    assert found.cause == "masks_of_other_image"


def test_all_images_of_a_finding_are_in_its_record(drawn):
    some = [
        *outlined(drawn[2][::4], lambda points, image: points[:, ::-1]),
        *(own for row, own in enumerate(drawn[2]) if row % 4),
    ]
    (found,) = check(drawn, val=some)
    assert len(found.as_record()["files"]) > 5 and {*found.files} <= {image.file_name for image in drawn[2][::4]}


def test_the_outlines_of_the_test_split_are_checked_as_well(drawn):
    root, train, val, tasks = drawn
    mirrored = outlined(val[10:], lambda points, image: points * (-1, 1) + (image.width, 0))
    scored = {"val": images_of(val[:10], tasks), "test": images_of(mirrored, tasks)}
    found = checked.check(images_of(train, tasks), scored, root=root, tasks=tasks, input=tiny.params().input)
    assert [(one.cause, one.where) for one in found] == [("masks_mirrored", "test")]


def test_images_above_the_limit_of_pillow_are_checked(drawn, monkeypatch):
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 1000)
    assert not causes(drawn)


def test_images_of_a_part_whose_outlines_lie_on_no_edges_are_found(drawn, tmp_path):
    def garbled(pixels):
        return np.stack([np.roll(row, 2 * place, axis=0) for place, row in enumerate(pixels)])

    root = changed(drawn, tmp_path, "val", garbled, count=10)
    assert causes(drawn, root=root) == {("masks_displaced", "val")}


def test_annotations_of_other_images_and_turned_ones_are_distinguished(drawn):
    train = drawn[1]
    other = [replace(a, instances=b.instances) for a, b in zip(train, [*train[1:], train[0]], strict=True)]
    assert causes(drawn, train=other) == {("masks_of_other_image", "train")}
    mirrored = outlined(train, lambda points, image: points * (-1, 1) + (image.width, 0))
    assert causes(drawn, train=mirrored) == {("masks_mirrored", "train")}
    below = outlined(train, lambda points, image: points * (1, -1) + (0, image.height))
    assert causes(drawn, train=below) == {("masks_mirrored", "train")}
    transposed = outlined(train, lambda points, image: points[:, ::-1])
    assert causes(drawn, train=transposed) == {("masks_transposed", "train")}
    turned = outlined(train, lambda points, image: (image.width, image.height) - points)
    assert causes(drawn, train=turned) == {("images_turned", "train")}
    quarter = outlined(train, lambda points, image: points[:, ::-1] * (-1, 1) + (image.width, 0))
    assert causes(drawn, train=quarter) == {("images_turned", "train")}


@pytest.mark.parametrize(("order", "text"), [([2, 1, 0], "red and blue swapped"), ([1, 2, 0], "green, blue, red")])
def test_channels_in_another_order_in_one_split_are_found_by_the_classes_colours(order, text, drawn, tmp_path):
    root = changed(drawn, tmp_path, "val", lambda pixels: pixels[..., order])
    (found,) = check(drawn, root=root)
    assert (found.cause, found.where) == ("channels_swapped", "val") and text in found.evidence


@pytest.mark.parametrize(
    "names", [{"red": "blue", "blue": "red"}, dict(zip(shapes.HUES, [*shapes.HUES][::-1], strict=True))]
)
def test_colours_named_in_another_order_are_not_swapped_channels(names, drawn):
    _, _, val, tasks = drawn
    classes = next(task.classes for task in tasks if task.name == "colour")
    to = [classes.index(names.get(name, name)) for name in classes]
    renamed = [
        replace(image, instances=tuple(
            replace(one, labels=one.labels | {"colour": to[one.labels["colour"]]}) for one in image.instances))
        for image in val
    ]  # fmt: skip
    (found,) = check(drawn, val=renamed)
    assert (found.cause, found.where) == ("labels_permuted", "val: task 'colour'")
    assert all(f"{names[name]} for {name}" in found.evidence for name in names if names[name] != name)


@pytest.mark.parametrize(
    ("change", "measure"),
    [
        (lambda pixels: pixels // 3, "brightness"),
        (lambda pixels: (3 * pixels.astype(int)).clip(0, 255).astype(np.uint8), "brightness"),
        (lambda pixels: (pixels // 4 + 96).astype(np.uint8), "contrast"),
        (lambda pixels: pixels.mean(2, keepdims=True).repeat(3, 2).astype(np.uint8), "saturation"),
    ],
)
def test_val_of_other_brightness_contrast_or_colour_is_reported(change, measure, drawn, tmp_path):
    root = changed(drawn, tmp_path, "val", change)
    assert ("splits_differ", "val") in causes(drawn, root=root)
    small = [
        checked.thumbnails(images, root, split) for split, images in zip(("train", "val"), drawn[1:3], strict=True)
    ]
    (found,) = checked.differ(*small)
    assert f"{measure} " in found.evidence


def test_wrong_labels_are_no_swapped_channels(drawn):
    """Of objects with another label, red and blue ones fit once red and blue are swapped, the others do not."""
    *_, val, tasks = drawn
    names = next(task.classes for task in tasks if task.name == "colour")
    other = {"red": "blue", "blue": "red", "green": "yellow", "yellow": "green"}

    def relabelled(image, kept):
        """With the first object of these colours alone, renamed."""
        own = [names[one.labels["colour"]] for one in image.instances]
        rows = [row for row, name in enumerate(own) if name in kept][:1]
        labels = {row: one.labels | {"colour": names.index(other[own[row]])} for row, one in enumerate(image.instances)}
        changed = [replace(one, labels=labels[row]) if row in rows else one for row, one in enumerate(image.instances)]
        return replace(image, instances=tuple(changed[row] for row in rows) if rows else image.instances)

    noisy = [
        relabelled(image, ("red", "blue") if row % 5 == 0 else ("green", "yellow")) for row, image in enumerate(val)
    ]
    assert not causes(drawn, val=noisy)


def test_a_few_images_of_another_kind_are_no_difference_of_the_splits(drawn):
    train, val = (
        checked.thumbnails(images, drawn[0], split) for split, images in zip(("train", "val"), drawn[1:3], strict=True)
    )
    pixels = val.pixels.copy()
    pixels[:20] //= 3
    assert not list(checked.differ(train, replace(val, pixels=pixels))), "half of val"
    few = replace(val, names=val.names[:4], pixels=val.pixels[:4] // 3)
    assert not list(checked.differ(train, few)), "four images can be dark by chance"


def half_lost(pixels):
    return np.concatenate([pixels[: len(pixels) // 2], np.full_like(pixels[len(pixels) // 2 :], 128)])


@pytest.mark.parametrize(
    ("change", "cause", "text"),
    [
        (lambda pixels: pixels // 4, "splits_differ", "beyond nearly all of train"),
        (half_lost, "splits_differ", "blank rows"),
        (lambda pixels: 255 - pixels, "splits_differ", "all values inverted"),
        (lambda pixels: pixels[..., ::-1], "channels_swapped", "red and blue swapped"),
        (lambda pixels: pixels[..., [0, 1, 0]], "splits_differ", "the two channels most alike"),
    ],
)
def test_a_part_of_val_that_looks_unlike_train_is_named_with_its_files(change, cause, text, drawn, tmp_path):
    found = check(drawn, root=changed(drawn, tmp_path, "val", change, count=12))
    assert [one.cause for one in found] == [cause]
    assert text in found[0].evidence and "val/00000.jpg" in found[0].evidence


def coloured(task, colours, labels):
    return Outlines(
        np.zeros((1, 1)), np.zeros((0, 2)), colours, [{task.name: label} for label in labels], np.zeros(1), "0.jpg",
        np.zeros(0), np.zeros(len(labels)),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("change", "named"), [(lambda colours: 255 - colours, True), (lambda colours: colours[::-1], False)]
)
def test_wrong_labels_are_no_inverted_colours(change, named):
    """Red labelled green is closer to green once it is inverted, but not green."""
    (task,) = make_tasks(1)
    rng, colours = np.random.default_rng(0), np.array([[220.0, 60, 50], [50, 200, 70]])

    def images(count, change):
        return [coloured(task, change(colours) + rng.normal(0, 5, (2, 3)), [0, 1]) for _ in range(count)]

    found = checked.recoloured(images(40, lambda colours: colours), images(30, change), "val", tasks=[task])
    assert [one.cause for one in found] == ["splits_differ"] * named


def test_a_colour_that_a_small_val_lacks_is_no_change_of_colours():
    """Of a task that has nothing to do with colours. Several changes bring blue nearer to red, green and yellow."""
    (task,) = make_tasks(1)
    rng, known = np.random.default_rng(0), np.array([[162.0, 58, 59], [66, 161, 61], [156, 145, 50]])
    val, train = (
        [coloured(task, rng.choice(known, 2) + rng.normal(0, 10, (2, 3)), [0, 0]) for _ in range(count)]
        for count in (56, 285)
    )
    train += [coloured(task, np.array([[56.0, 94, 161]]) + rng.normal(0, 10, 3), [0]) for _ in range(15)]
    assert not checked.recoloured(val, train, "train", tasks=[task])


def test_a_part_of_train_with_red_and_blue_swapped_is_found(drawn, tmp_path):
    root = changed(drawn, tmp_path, "train", lambda pixels: pixels[..., ::-1], count=20)
    assert causes(drawn, root=root) == {("channels_swapped", "train")}


def test_two_images_of_another_kind_are_no_part_of_a_split(drawn, tmp_path):
    assert not check(drawn, root=changed(drawn, tmp_path, "val", lambda pixels: pixels // 4, count=2))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (PIL.ImageOps.mirror, ", mirrored"),
        (lambda image: image.transpose(PIL.Image.Transpose.ROTATE_90), " degrees"),
        (lambda image: image.transpose(PIL.Image.Transpose.TRANSPOSE), " degrees"),
    ],
)
def test_mirrored_and_turned_copies_of_train_in_val_are_found(drawn, tmp_path, change, text):
    root, train, val, _ = drawn
    shutil.copytree(root, tmp_path / "raw")
    copies = [replace(image, file_name=f"val/copy{image.id}.jpg", instances=()) for image in train[:3]]
    for image, copy in zip(train, copies, strict=False):
        change(PIL.Image.open(root / image.file_name)).save(tmp_path / "raw" / copy.file_name)
    (found,) = check(drawn, val=[*val, *copies], root=tmp_path / "raw")
    assert found.cause == "split_leak" and found.evidence.startswith("3 of 43 val images"), found
    assert found.evidence.endswith(text)


@pytest.mark.parametrize(("change", "named"), [(1, True), (0, False)])
def test_copies_within_train_with_other_labels_are_found(drawn, tmp_path, change, named):
    root, train, _, tasks = drawn
    shutil.copytree(root, tmp_path / "raw")
    name, count = tasks[-1].name, tasks[-1].num_classes
    copies = []
    for image in train[:6]:
        labels = [one.labels | {name: (one.labels[name] + change) % count} for one in image.instances]
        own = tuple(replace(one, labels=new) for one, new in zip(image.instances, labels, strict=True))
        copies.append(replace(image, id=1000 + image.id, file_name=f"train/copy{image.id}.jpg", instances=own))
        PIL.Image.open(root / image.file_name).save(tmp_path / "raw" / copies[-1].file_name, quality=80)
    found = check(drawn, train=[*train, *copies], root=tmp_path / "raw")
    assert [one.cause for one in found] == ["label_noise"] * named
    assert not named or name in found[0].evidence and "6 of" in found[0].evidence


def test_many_copies_in_a_split_of_many_objects_take_little_time(monkeypatch):
    count, many = 601, 4_000_000
    image = np.append(np.zeros(many, dtype=int), np.arange(1, count))
    box = np.broadcast_to([1.0, 1.0, 9.0, 9.0], (len(image), 4))
    instances = SimpleNamespace(image=image, crowd=np.zeros(len(image), dtype=bool), box=box, labels={})
    names, side = np.array([f"{row}.jpg" for row in range(count)]), np.full(count, 64)
    images = SimpleNamespace(file_name=names, width=side, height=side, instances=instances)
    small = checked.Thumbnails(
        "train", names.tolist(), np.zeros((count, checked.SIDE, checked.SIDE, 3), np.uint8), names
    )
    monkeypatch.setattr(checked, "copies", lambda pixels: ((row, row + 1) for row in range(1, count, 2)))
    began = time.process_time()
    assert not [*checked.contradictory(small, images, ())]
    assert time.process_time() - began < 2, "4 s or more, if all objects are looked through for each copy"


def test_shots_of_one_scene_are_no_copies():
    """As of a fixed camera over a conveyor belt, whose parts are whole or broken."""
    rng = np.random.default_rng(0)
    scenes = rng.integers(0, 256, (4, checked.SIDE, checked.SIDE, 3))

    def shots(count):
        pixels = np.repeat(scenes, count, axis=0) + rng.normal(0, 2, (4 * count, 1, 1, 3))
        return pixels.clip(0, 255).astype(np.uint8)

    assert sorted(checked.copies(shots(2))) == [(0, 1), (2, 3), (4, 5), (6, 7)]
    assert not [*checked.copies(shots(20))]


def test_an_object_that_has_changed_is_not_the_same():
    rng = np.random.default_rng(0)
    one = rng.integers(0, 256, (checked.SIDE, checked.SIDE, 3)).astype(np.uint8)
    again = (one + rng.normal(0, 4, one.shape)).clip(0, 255).astype(np.uint8)
    box = np.array([[10.0, 10.0, 3.0, 6.0]])
    assert checked._unchanged(one, again, box)
    one[11, 11], again[11, 11] = (255, 0, 0), (0, 255, 0)  # a lamp: a thirtieth of its box
    assert not checked._unchanged(one, again, box)


def test_images_that_are_many_times_larger_than_those_of_train_need_no_memory(drawn):
    root, train, _, tasks = drawn
    small = checked.thumbnails(images_of(train, tasks), root, "train", scale=40.0)
    assert max(one.size for one in small.scaled) == 1


def test_images_that_are_nearly_black_are_reported(drawn, tmp_path):
    root = changed(drawn, tmp_path, "train", lambda pixels: pixels // 255)
    assert ("normalisation", None) in causes(drawn, root=root)


def test_dark_images_with_a_few_bright_pixels_are_no_fault(drawn, tmp_path):
    def stars(pixels):
        pixels = pixels // 255
        pixels[::31, ::31] = 250
        return pixels

    root = changed(drawn, tmp_path, "train", stars)
    assert ("normalisation", None) not in causes(drawn, root=root)


def test_grey_images_have_no_saturation_of_compression():
    pixels = np.full((2, 32, 32, 3), 100, dtype=np.uint8)
    pixels[1, ::2, :, 0] += 1
    grey, compressed = checked.MEASURES["saturation"](pixels)
    assert grey == compressed


def test_of_many_images_a_sample_is_compared_and_reported(drawn, monkeypatch):
    root, train, val, _ = drawn
    monkeypatch.setattr(checked, "MOST", {"train": 10, "val": 10})
    monkeypatch.setattr(tiles, "MOST", (4, 3))
    small = [checked.thumbnails(images, root, name, scale=0.6) for name, images in (("train", train), ("val", val))]
    (found,) = checked.leaks(*small)
    assert found.severity == "note" and "10 of 60 train images and 10 of 40 val images" in found.evidence
    assert found.evidence.endswith("no parts between 4 and 3")
    (found,) = checked.leaks(replace(small[1], split="train"), small[1])
    assert "(compared: 10 of val, 10 of train; for parts 3 of val, 4 of train)" in found.evidence


def test_a_image_that_is_missing_or_broken_is_named(drawn, tmp_path):
    shutil.copytree(drawn[0], tmp_path / "raw")
    path = Path(tmp_path / "raw" / drawn[1][0].file_name)
    path.write_bytes(b"not an image")
    with pytest.raises(UserError, match=path.name):
        causes(drawn, root=tmp_path / "raw")
    path.unlink()
    with pytest.raises(UserError, match=rf"{path.name}: no such image"):
        causes(drawn, root=tmp_path / "raw")
