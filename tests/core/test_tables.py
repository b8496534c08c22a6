"""Tables: written and read back, columns that are read on first use, selection of rows."""

import copy
import os
import pickle
from unittest.mock import Mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mtseg.core.errors import UserError
from mtseg.core.params import RESERVED
from mtseg.core.tables import UNLABELLED, Image, Images, Instance, Instances, Pairs, Predictions, Table
from tests.scenes import make_tasks, predict_all, scene, table

SQUARE = [[1.0, 1.0, 5.0, 1.0, 5.0, 5.0, 1.0, 5.0]]


@pytest.fixture(params=[1, 3])
def tasks(request):
    return make_tasks(request.param)


@pytest.fixture
def images(tasks):
    """Polygons and RLEs, crowds, missing labels, an image without objects."""
    records = [*scene(tasks, partial=True, crowds=True)]
    labels = {task.name: 1 for task in tasks}
    records.append(Image(7, "7.jpg", 8, 9, (Instance(SQUARE + SQUARE, (1.0, 1.0, 4.0, 4.0), 16.0, labels),)))
    return Images.from_records(records[::-1], [(task.name, task.classes) for task in tasks])


@pytest.fixture
def predictions(tasks):
    return table(predict_all(scene(tasks), tasks), tasks)


def same(one: Table, other: Table) -> bool:
    return set(one.names) == set(other.names) and all(
        np.array_equal(one.column(name), other.column(name)) for name in one.names if name != "polygons"
    )


def test_images_are_read_as_they_were_written(images, tmp_path):
    images.write(tmp_path / "a.parquet")
    read = Images.read(tmp_path / "a.parquet")
    assert list(read) == list(images) and read.classes == images.classes
    assert same(read, images) and same(read.instances, images.instances)


def test_images_are_a_sequence_of_records_by_id(images):
    assert [image.id for image in images] == list(range(1, 8)) and len(images) == 7
    assert images[-1].instances[0].segmentation == SQUARE * 2 and images[0].instances == ()
    with pytest.raises(IndexError):
        images[7]
    for rows, kept in ((slice(2, 5), [2, 3, 4]), (np.arange(7) % 2 == 0, [0, 2, 4, 6]), ([1, 6], [1, 6]), ([], [])):
        part = images[rows]
        assert list(part) == [images[row] for row in kept]
        assert part.rows(np.array([7, 99])).tolist() == [kept.index(6) if 6 in kept else -1, -1]


def test_polygons_are_a_column_like_others(images):
    polygons = images.instances.polygons
    given = [i.segmentation if isinstance(i.segmentation, list) else None for image in images for i in image.instances]
    assert polygons.tolist() == given == [polygons[row] for row in range(len(polygons))]
    assert polygons[1:].tolist() == given[1:] and polygons[[-1, 0]].tolist() == [given[-1], given[0]]


def test_a_missing_label_is_null_in_the_file_and_classes_are_names(images, tasks, tmp_path):
    images.write(tmp_path / "a.parquet")
    rows = [one for image in pq.read_table(tmp_path / "a.parquet").to_pylist() for one in image["instances"]]
    for task in tasks:
        codes = images.instances.labels[task.name].tolist()
        names = [None if code == UNLABELLED else task.classes[code] for code in codes]
        assert [row[f"labels.{task.name}"] for row in rows] == names
    assert len(tasks) == 1 or any(row[f"labels.{tasks[1].name}"] is None for row in rows)


def test_predictions_are_read_as_they_were_written(predictions, tasks, tmp_path):
    predictions.write(tmp_path / "p.parquet", tasks)
    assert same(Predictions.read(tmp_path / "p.parquet", tasks), predictions)


def test_a_column_is_read_when_it_is_used_and_not_before(predictions, tasks, tmp_path, monkeypatch):
    predictions.write(tmp_path / "p.parquet", tasks)
    read, columns = pq.ParquetFile.read, []
    monkeypatch.setattr(pq.ParquetFile, "read", lambda self, names: columns.extend(names) or read(self, names))
    lazy = Predictions.read(tmp_path / "p.parquet", tasks)
    few = lazy[3:5].replace(query=np.array([8, 9]))
    assert len(few) == 2 and not columns
    assert few.score.tolist() == predictions.score[3:5].tolist() and few.query.tolist() == [8, 9]
    assert lazy.score is lazy.score and columns == ["score"]


def test_rows_are_kept_together(predictions, tasks):
    rows = [5, 0, 2]
    part = predictions[rows]
    for name in predictions.names:
        assert np.array_equal(part.column(name), predictions.column(name)[rows])
    mask = np.arange(len(predictions)) % 2 == 0
    half = predictions[mask]
    mask[:] = False  # the table has a copy
    assert half.query.tolist() == predictions.query[::2].tolist()
    assert same(Predictions.concatenate([predictions[:4], predictions[4:4], predictions[4:]]), predictions)


def test_an_unknown_column_and_columns_of_other_lengths_are_named(predictions):
    with pytest.raises(AttributeError, match="no column 'scores', available: image_id, query,"):
        predictions.scores  # noqa: B018
    with pytest.raises(AssertionError):
        predictions.replace(score=np.zeros(1))
    with pytest.raises(AssertionError, match="'a': 1, 'b': 2"):
        Table.of({"a": np.zeros(1), "b": np.zeros(2)})


def test_tables_travel_between_processes(images, predictions):
    for change in (copy.deepcopy, lambda given: pickle.loads(pickle.dumps(given))):
        assert list(change(images[2:])) == list(images)[2:]
        assert same(change(predictions[1:]), predictions[1:])


def test_empty_tables(images, predictions, tasks, tmp_path):
    images[:0].write(tmp_path / "i.parquet")
    none = Images.read(tmp_path / "i.parquet")
    assert list(none) == [] and isinstance(none.instances, Instances) and none.instances.box.shape == (0, 4)
    predictions[:0].write(tmp_path / "p.parquet", tasks)
    nothing = Predictions.read(tmp_path / "p.parquet", tasks)
    assert len(nothing) == 0 and nothing.logits[tasks[0].name].shape == (0, tasks[0].num_outputs)
    assert [column.tolist() for column in nothing.labels.values()] == [[]] * len(tasks)


def test_the_same_input_gives_the_same_bytes(images, predictions, tasks, tmp_path):
    for name in ("a", "b"):
        images.write(tmp_path / f"i{name}.parquet")
        predictions.write(tmp_path / f"p{name}.parquet", tasks)
    for kind in ("i", "p"):
        assert (tmp_path / f"{kind}a.parquet").read_bytes() == (tmp_path / f"{kind}b.parquet").read_bytes()


def readers(path, tasks):
    return (
        (lambda: Images.read(path), "convert"),
        (lambda: Predictions.read(path, tasks), "predict"),
        (lambda: Pairs.read(path, None, None), "evaluate"),
    )


def test_predictions_of_other_tasks_are_refused_in_one_line(predictions, tasks, tmp_path):
    predictions.write(tmp_path / "p.parquet", tasks)
    fewer = (tasks[0].model_copy(update={"classes": ("circle",)}), *tasks[1:])
    renamed = (tasks[0].model_copy(update={"name": "other"}), *tasks[1:])
    for other in (fewer, renamed, make_tasks(4)):
        with pytest.raises(UserError, match="p.parquet was made for other tasks or classes: run `dvc repro predict`"):
            Predictions.read(tmp_path / "p.parquet", other)


@pytest.mark.parametrize("content", [None, b"", b"PAR1 no table PAR1"])
def test_a_missing_or_broken_file_is_one_line_that_names_the_stage_to_run(tmp_path, tasks, content):
    path = tmp_path / "a.parquet"
    if content is not None:
        path.write_bytes(content)
    for read, stage in readers(path, tasks):
        reason = "is missing" if content is None else "is not a table of this version"
        with pytest.raises(UserError, match=f"a.parquet {reason}.*run `dvc repro {stage}`") as caught:
            read()
        assert "\n" not in str(caught.value)


def test_a_pipe_is_not_waited_for(tasks, tmp_path):
    os.mkfifo(tmp_path / "a.parquet")
    for read, stage in readers(tmp_path / "a.parquet", tasks):
        with pytest.raises(UserError, match=f"a.parquet is a pipe .*dvc repro {stage}"):
            read()


def test_a_table_that_does_not_fit_into_memory_is_not_called_damaged(tasks, tmp_path, monkeypatch):
    monkeypatch.setattr(pa, "OSFile", Mock(side_effect=pa.ArrowMemoryError("malloc of size 64 failed")))
    for read, _ in readers(tmp_path / "a.parquet", tasks):
        with pytest.raises(MemoryError):
            read()


def test_a_table_of_another_kind_is_one_line(images, predictions, tasks, tmp_path):
    images.write(tmp_path / "i.parquet")
    for read, _ in readers(tmp_path / "i.parquet", tasks)[1:]:
        with pytest.raises(UserError, match="i.parquet is not a table of this version .*is missing"):
            read()
    plain = pq.read_table(tmp_path / "i.parquet").replace_schema_metadata({})
    pq.write_table(plain, tmp_path / "i.parquet")
    with pytest.raises(UserError, match="i.parquet is not a table of this version"):
        Images.read(tmp_path / "i.parquet")


def test_pairs_are_read_as_they_were_written_and_for_the_same_rows_alone(images, predictions, tmp_path):
    pairs = Pairs.of({name: np.arange(3) for name in ("prediction", "instance", "iou", "intersection")})
    pairs.write(tmp_path / "pairs.parquet", images, predictions)
    assert same(Pairs.read(tmp_path / "pairs.parquet", images, predictions), pairs)
    for others in ((images, predictions[::-1]), (images, predictions[1:]), (images[:-1], predictions)):
        with pytest.raises(UserError, match="pairs.parquet was made from other predictions .*run `dvc repro evaluate`"):
            Pairs.read(tmp_path / "pairs.parquet", *others)


def test_no_task_can_be_called_as_a_column_of_the_predictions_is(predictions):
    assert {name for name in predictions.names if "." not in name} <= RESERVED
