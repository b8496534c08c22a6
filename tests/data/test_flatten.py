import numpy as np
import pytest

from mtseg.core.errors import UserError
from mtseg.core.files import write_json
from mtseg.core.tables import Images
from mtseg.data import flatten, manifest
from tests.data import folders
from tests.data.folders import converted, shape


@pytest.fixture
def tasks():
    main, *further = folders.tasks(part=("door", "hood", "roof"), end="auto", side=("left", "none", "right"))
    main = main.model_copy(update={"loss_weight": 2.0, "class_weights": {"door": 3.0}})
    return (main, further[0], further[1].model_copy(update={"background": False, "flip_pairs": (("left", "right"),)}))


@pytest.fixture
def raw(tmp_path):
    """Train has three combinations, val another one; both have an object without a label of `side`."""
    labels = {"train/a": ("door,front,left", "hood,none,none", "door,-,left"), "train/b": ("hood,none,none",)}
    labels |= {"val/a": ("door,back,left", "door,front,-")}
    for name, own in labels.items():
        folders.labelme(tmp_path / "raw", name, *(shape(label) for label in own))
    return tmp_path / "raw"


@pytest.fixture
def records(raw, tasks):
    converted(raw, tasks, flatten=True)
    write_json(raw.parent / "manifest.json", manifest.build(raw.parent / "coco"))
    return manifest.load(raw.parent / "manifest.json")


CLASSES = ("door,back,left", "door,back,right", "door,front,left", "door,front,right", "hood,none,none")


def test_classes_are_the_combinations_of_both_splits_and_their_mirror_images(records, tasks):
    (flat,) = records.tasks(tasks)
    assert flat.name == "part_end_side" and flat.classes == CLASSES
    assert [CLASSES[i] for i in flat.flipped()] == [CLASSES[i] for i in (1, 0, 3, 2, 4)]


def test_the_main_task_gives_its_weights(records, tasks):
    (flat,) = records.tasks(tasks)
    assert (flat.loss_weight, flat.background, flat.weights) == (2.0, True, (3.0, 3.0, 3.0, 3.0, 1.0))
    auto = (tasks[0].model_copy(update={"class_weights": "auto"}), *tasks[1:])
    weights = dict(zip(CLASSES, records.tasks(auto)[0].weights, strict=True))
    assert weights["door,front,left"] == pytest.approx(2 * weights["hood,none,none"])


def test_an_object_that_lacks_a_label_is_a_crowd_of_every_class_it_may_be(records, raw):
    (first, _), (val,) = records.images("train"), records.images("val")
    for image, sure, unsure in ((first, [2, 4], [0, 2]), (val, [0], [2, 3])):
        found = [(i.labels["part_end_side"], i.crowd) for i in image.instances]
        assert found == [(label, False) for label in sure] + [(label, True) for label in unsure]
    assert folders.report(raw)["flat"] == {"classes": list(CLASSES), "ignored": 2, "left_out": 0}


def test_what_no_class_fits_is_left_out_and_counted(tmp_path, tasks):
    for split in ("train", "val"):
        folders.labelme(tmp_path / "raw", f"{split}/a", shape("door,front,left"), shape("roof,-,left"))
    images = converted(tmp_path / "raw", tasks, flatten=True)
    assert [len(image.instances) for image in images.values()] == [1, 1]
    assert folders.report(tmp_path / "raw")["flat"]["left_out"] == 2


def test_masks_and_images_stay_as_they_are(raw, tasks):
    plain, flat = converted(raw, tasks), converted(raw, tasks, flatten=True)
    for name, image in plain.items():
        sure = [i for i in image.instances if None not in i.labels.values()]
        assert [i.segmentation for i in flat[name].instances if not i.crowd] == [i.segmentation for i in sure]
        assert (image.id, image.height, image.width) == (flat[name].id, flat[name].height, flat[name].width)


def test_train_lacks_the_combinations_of_val(records):
    assert records.combinations("train") == {(2,): 1, (4,): 2}
    assert records.combinations("val") == {(0,): 1}


def test_one_task_is_flat_already(tmp_path):
    tasks = folders.tasks(part=("door", "hood"))
    for split in ("train", "val"):
        folders.labelme(tmp_path / "raw", f"{split}/a", shape("door"))
    assert converted(tmp_path / "raw", tasks, flatten=True) == converted(tmp_path / "raw", tasks)
    assert Images.read(tmp_path / "coco" / "train.parquet").classes == (("part", ("door", "hood")),)


def test_other_tasks_in_params_than_the_data_were_flattened_from(records, tasks):
    other = (tasks[0].model_copy(update={"classes": ("wheel",), "class_weights": None}), *tasks[1:])
    for wrong in (other, tasks[:2], tasks[::-1]):
        with pytest.raises(UserError, match="dvc repro register"):
            records.tasks(wrong)
    new_pairs = (tasks[0], tasks[1].model_copy(update={"flip_pairs": (("front", "none"),)}), tasks[2])
    with pytest.raises(UserError, match="flip_pairs has unknown classes"):
        records.tasks(new_pairs)


def test_a_comma_in_a_class_is_refused(raw, tasks):
    images = list(converted(raw, tasks).values())
    odd = tuple(task.model_copy(update={"classes": ("a,b", "c", "d"), "class_weights": None}) for task in tasks)
    with pytest.raises(UserError, match="'a,b' of task 'part' has a comma.*data.mapping"):
        flatten.flatten({"train": images, "val": []}, odd)


def test_no_object_with_all_labels_is_one_clear_line(tmp_path, tasks):
    for split, label in (("train", "door,-,left"), ("val", "door,front,-")):
        folders.labelme(tmp_path / "raw", f"{split}/a", shape(label))
    with pytest.raises(UserError, match="data.flatten requires an object with labels of all tasks"):
        converted(tmp_path / "raw", tasks, flatten=True)


def test_flat_classes_number_as_the_tuples_sort(records, tasks):
    parts = [name.split(flatten.SEPARATOR) for name in records.tasks(tasks)[0].classes]
    assert parts == sorted(parts) and np.shape(parts) == (5, 3)
