"""The table of predictions that knows its images, and what other tools take."""

import json
import pickle
import sys

import numpy as np
import PIL.Image
import pytest
from pycocotools.coco import COCO

import mtseg
from mtseg.core.masks import mask
from mtseg.core.tables import Images, Predictions
from mtseg.inference.result import Result
from tests import tiny


@pytest.fixture(scope="module")
def result(segmenter):
    """Of three images, the second without predictions; the first two have the same size."""
    predictor = mtseg.load(segmenter, device="cpu")
    rng = np.random.default_rng(1)
    sizes = [(40, 50), (40, 50), (64, 30)]
    found = predictor.predict([rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes])
    found = found[found.image_id != 2]
    assert {*found.image_id} == {1, 3}
    return found


def equal(one, other):
    return one.names == other.names and all(np.array_equal(one.column(name), other.column(name)) for name in one.names)


def test_a_slice_is_a_result_of_the_same_images(result):
    for rows in (slice(0, 2), result.score >= np.median(result.score), np.array([1, 0])):
        few = result[rows]
        assert isinstance(few, Result) and few.images is result.images and few.tasks == result.tasks
        assert few.rle.tolist() == result.rle[rows].tolist()
    assert len(result[:0]) == 0 and len(result[:0].to_dataframe()) == 0


def test_by_image_gives_each_image_its_own(result):
    one, two, three = result.by_image()
    assert [part.images.id.tolist() for part in (one, two, three)] == [[1], [2], [3]]
    assert len(one) + len(three) == len(result) and len(two) == 0
    assert equal(one, result[result.image_id == 1]) and equal(three, result[result.image_id == 3])
    assert equal(Result.join([one, two, three]), result)
    assert [part.sources[0].name for part in (one, two, three)] == result.images.file_name.tolist()


def test_plots_are_saved_of_every_image_and_replace_no_other_file(result, tmp_path):
    result.save_plots(tmp_path / "drawn")
    assert {path.name for path in (tmp_path / "drawn").iterdir()} == {f"image{i}.jpg" for i in range(3)}
    first = next(result.by_image())
    with PIL.Image.open(tmp_path / "drawn/image0.jpg") as image:
        drawn = first.plot()
        assert image.format == "JPEG" and image.size == drawn.size
        assert np.abs(np.asarray(image).astype(int) - np.asarray(drawn)).mean() < 5
    first.save_plots(tmp_path / "drawn")
    (tmp_path / "drawn/image1.jpg").write_bytes(b"mine")
    with pytest.raises(mtseg.UserError, match="image1.jpg is no overlay"):
        result.save_plots(tmp_path / "drawn")
    with pytest.raises(mtseg.UserError, match="would share"):
        Result.join([first, first]).save_plots(tmp_path / "new")
    assert (tmp_path / "drawn/image1.jpg").read_bytes() == b"mine" and not (tmp_path / "new").exists()


def test_masks_are_those_of_the_rles(result):
    one, two, _ = result.by_image()
    masks = one.masks()
    assert masks.shape == (len(one), 40, 50) and masks.dtype == bool
    assert all(np.array_equal(own, mask(rle, 40, 50)) for own, rle in zip(masks, one.rles(), strict=True))
    assert masks.sum(axis=(1, 2)).tolist() == one.area.tolist()
    assert two.masks().shape == (0, 40, 50)
    assert result[:0].masks().shape[0] == 0 and Result.join([one, one]).masks().shape == (2 * len(one), 40, 50)
    with pytest.raises(mtseg.UserError, match="by_image"):
        result.masks()


def test_an_index_gives_one_prediction_and_a_loop_all_of_them(result):
    for row, one in enumerate(result):
        assert isinstance(one, Result) and len(one) == 1 and one.rle[0] == result[row].rle[0] == result.rle[row]
        assert one.images.id.tolist() == [result.image_id[row]] and one.plot().size
    assert row + 1 == len(list(result)) == len(result) and result[-1].score[0] == result.score[-1]
    with pytest.raises(IndexError):
        result[len(result)]
    for wrong in (lambda: result["score"], lambda: result.names_of("size")):
        with pytest.raises(mtseg.UserError, match="score|shape"):
            wrong()


def test_a_result_and_a_predictor_describe_themselves(result, segmenter):
    text = repr(result)
    assert f"{len(result)} predictions on 3 images" in text and "labels[TASK]" in text and "to_dataframe()" in text
    assert "1 of 3 images without a prediction" in text
    assert "1 prediction on 1 image," in repr(result[0]) and "without a prediction" not in repr(result[0])
    text = repr(mtseg.load(segmenter, device="cpu"))
    assert all(word in text for word in ("shape (circle, square, star)", tiny.BACKBONE, "64 x 64", "cpu"))
    assert "\n" not in text


def test_the_data_frame_has_a_row_for_each_prediction(result):
    frame = result.to_dataframe()
    assert frame.score.tolist() == result.score.tolist() and frame.image_id.tolist() == result.image_id.tolist()
    assert {*frame.file_name} == {"image0", "image2"}
    assert np.array_equal(frame[["x", "y", "width", "height"]].to_numpy(), result.box)
    for task in result.tasks:
        assert frame[task.name].tolist() == [task.classes[i] for i in result.labels[task.name]]
        assert frame[task.name].tolist() == result.names_of(task.name).tolist()


def test_pycocotools_loads_the_data_set(tmp_path, result):
    (tmp_path / "found.json").write_text(json.dumps(result.to_coco()))
    read = COCO(str(tmp_path / "found.json"))
    assert [one["file_name"] for one in read.loadImgs(read.getImgIds())] == ["image0", "image1", "image2"]
    assert len(read.getAnnIds(imgIds=[2])) == 0
    objects = read.loadAnns(read.getAnnIds())
    assert [one["score"] for one in objects] == result.score.tolist()
    assert [int(read.annToMask(one).sum()) for one in objects] == result.area.astype(int).tolist()
    categories = {one["id"]: one["name"] for one in read.loadCats(read.getCatIds())}
    main = result.tasks[0].name
    assert [categories[one["category_id"]] for one in objects] == result.names_of(main).tolist()


def test_supervision_takes_the_result_of_an_image(result):
    pytest.importorskip("supervision")
    one, two, _ = result.by_image()
    found, main = one.to_supervision(), result.tasks[0].name
    assert np.array_equal(found.mask, one.masks()) and found.confidence == pytest.approx(one.score)
    assert np.array_equal(found.xyxy[:, 2:] - found.xyxy[:, :2], one.box[:, 2:].astype(np.float32))
    assert found.class_id.tolist() == one.labels[main].tolist()
    assert found.data["class_name"].tolist() == one.names_of(main).tolist()
    for task in result.tasks:
        assert found.data[task.name].tolist() == one.names_of(task.name).tolist()
        assert found.data[f"{task.name}_probability"] == pytest.approx(one.probability[task.name])
    assert len(found[found.confidence > np.median(found.confidence)]) < len(found)
    assert len(two.to_supervision()) == 0
    with pytest.raises(mtseg.UserError, match="by_image"):
        result.to_supervision()


def test_without_the_package_the_extra_is_named(result, monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)  # what an import finds where it is not installed
    with pytest.raises(mtseg.UserError, match=r"supervision, which is not installed: .*mtseg\[supervision\]"):
        next(result.by_image()).to_supervision()


def test_a_result_can_be_sent_to_another_process(segmenter, tmp_path):
    predictor, path = mtseg.load(segmenter, device="cpu"), tmp_path / "image.png"
    PIL.Image.new("RGB", (30, 20)).save(path)
    result = predictor.predict(path)
    again = pickle.loads(pickle.dumps(result))
    assert equal(again, result) and again.images.file_name.tolist() == ["image.png"]
    assert np.array_equal(again.sources[0].read(), result.sources[0].read())


def test_table_and_images_survive_a_file(tmp_path, result):
    result.write(tmp_path / "found.parquet", result.tasks)
    result.images.write(tmp_path / "images.parquet")
    assert equal(Predictions.read(tmp_path / "found.parquet", result.tasks), Predictions.of(
        {name: result.column(name) for name in result.names}
    ))  # fmt: skip
    images = Images.read(tmp_path / "images.parquet")
    assert images.file_name.tolist() == result.images.file_name.tolist() and images.classes == result.images.classes
