"""A complete model predicts as the pipeline does, whatever the source is."""

import cv2
import numpy as np
import PIL.Image
import pytest
import torch

import mtseg
from mtseg.core import metadata
from mtseg.core.errors import UserError
from mtseg.core.tables import Image, Images
from mtseg.evaluation import filter
from mtseg.evaluation.ap import pairs
from mtseg.evaluation.ap.evaluation import Evaluation
from mtseg.inference.checkpoint import complete
from mtseg.inference.torch_network import load_model, predict
from mtseg.model import weights
from mtseg.model.device import pick
from tests import tiny
from tests.scenes import make_tasks

SIZES = [(64, 64), (90, 40), (33, 50), (128, 20), (64, 48)]  # width, height


@pytest.fixture(scope="module")
def shots(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shots")
    rng = np.random.default_rng(0)
    for number, (width, height) in enumerate(SIZES):
        blocks = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        PIL.Image.fromarray(blocks).resize((width, height)).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def predictor(segmenter):
    return mtseg.load(segmenter, device="cpu")


def equal(one, other):
    return one.names == other.names and all(np.array_equal(one.column(name), other.column(name)) for name in one.names)


@pytest.mark.parametrize("seen", [(), [(0, 0, 0), (1, 1, 2), (2, 0, 1)]], ids=["softmax", "combinations"])
def test_a_complete_model_predicts_as_the_pipeline_does(tmp_path, shots, seen):
    tasks = make_tasks(3, background=not seen)
    changes = {"model": {"unseen_combinations": 0.5}} if seen else {}
    given = tiny.params(tasks=[task.model_dump() for task in tasks], **changes)
    rules = given.filter.model_copy(update={"min_score": 0.01, "min_logit": -9.0, "min_area": 20, "nms_iou": 0.7})
    checkpoint = tiny.checkpoint(tmp_path / "best.safetensors", tasks, seen, **changes)

    classes = [(task.name, task.classes) for task in tasks]
    records = [Image(number, f"{number - 1}.png", height, width) for number, (width, height) in enumerate(SIZES, 1)]
    images = Images.from_records(records, classes)
    model = load_model(checkpoint, tasks=tasks, model=given.model, detections=given.test.detections)
    raw = predict(model, images, root=shots, input=given.input, batch=3, progress=False)
    evaluation = Evaluation(images, raw, pairs.of_masks(images, raw), tasks=tasks, ranking=given.test.ranking)
    expected, _ = filter.apply(evaluation, rules).predictions
    assert 0 < len(expected) < len(raw)

    out = tmp_path / "segmenter.safetensors"
    complete(checkpoint, out, size=given.input.size, test=given.test, filter=rules, licence=None)
    result = mtseg.load(out, device="cpu").predict(shots, batch=3)
    assert equal(result, expected)
    assert result.images.file_name.tolist() == images.file_name.tolist()
    assert result.images.height.tolist() == images.height.tolist()


def test_a_path_an_image_and_an_array_give_the_same(predictor, shots):
    path = shots / "1.png"
    expected = predictor.predict(path)
    assert len(expected) and expected.images.file_name.tolist() == ["1.png"]
    with PIL.Image.open(path) as image:
        for source in (str(path), str(shots / "1*"), image, np.asarray(image), [path]):
            assert equal(predictor.predict(source), expected)
        grey = np.asarray(image.convert("L"))
    assert equal(predictor.predict(grey), predictor.predict(np.repeat(grey[..., None], 3, axis=2)))


def test_results_of_a_film_hold_no_frame_once_the_next_is_asked_for(predictor, tmp_path):
    path = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 5, (64, 48))
    assert writer.isOpened(), "OpenCV has an encoder of its own for MJPEG"
    for number in range(5):
        writer.write(np.full((48, 64, 3), 50 * number, dtype=np.uint8))
    writer.release()
    stream = predictor.stream(path, batch=2)
    first = next(stream)
    assert first.sources[0].read.pixels is not None, "it is drawn without decoding the film again"
    found = [first, *stream]
    assert len(found) == 5 and all(one.sources[0].read.pixels is None for one in found)
    assert found[3].plot().size[0] > 0


def test_a_stream_gives_the_same_image_by_image(predictor, shots):
    whole = predictor.predict(shots, batch=2)
    parts = list(predictor.stream(shots, batch=2))
    assert len(parts) == len(SIZES) and all(len(part.images) == 1 for part in parts)
    assert equal(type(whole).join(parts), whole)
    later = list(predictor.stream(shots, batch=2, first=11))
    assert [part.images.id.tolist() for part in later] == [[11], [12], [13], [14], [15]]


def test_the_smallest_score_of_the_main_task_can_be_given(predictor, shots):
    every = predictor.predict(shots)
    limit = float(np.median(every.probability["shape"] * every.mask_quality))
    few = predictor.predict(shots, score=limit)
    assert 0 < len(few) < len(every)
    assert (few.probability["shape"] * few.mask_quality >= limit - 1e-9).all()
    none = predictor.predict(shots, score=1.0)
    assert len(none) == 0 and len(none.images) == len(SIZES)


def filtering(predictor, **rules):
    known = predictor.metadata
    changed = known.filter.model_copy(update=rules)
    return mtseg.inference.predictor.Predictor(predictor.network, known.model_copy(update={"filter": changed}))


def test_a_score_replaces_all_thresholds_and_leaves_the_rules_on_masks(predictor, shots):
    every = predictor.predict(shots, score=0)
    strict = filtering(predictor, min_score={"shape": 0.9, "colour": 0.9}, min_logit=9.0, drop_background=True)
    assert len(strict.predict(shots)) == 0 < len(every) == len(strict.predict(shots, score=0))
    few = filtering(predictor, most=1).predict(shots, score=0)
    assert len(few) == len(SIZES)


@pytest.mark.parametrize("settings", [{}, {"tile": 64}], ids=["whole", "tiles"])
def test_a_result_says_how_many_detections_which_rule_removed(predictor, shots, settings):
    bare = {"drop_background": False, "min_score": {}, "min_logit": {}, "largest_component": False, "nms": "none"}
    every = filtering(predictor, **bare).predict(shots)
    assert every.removed == {} and "removed by the filter: none" in repr(every)
    strict = filtering(predictor, **bare | {"min_logit": 9.0})
    none = strict.predict(shots, **settings)
    assert [*none.removed] == ["min_logit"] and (settings or none.removed["min_logit"] == len(every))
    line = f"removed by the filter: {none.removed['min_logit']} (filter.min_logit {none.removed['min_logit']}); "
    assert line + "5 of 5 images without a prediction" in repr(none).splitlines()
    few = filtering(predictor, **bare | {"most": 2}).predict(shots, **settings)
    assert few.removed["most"] == sum(one.removed.get("most", 0) for one in few.by_image()) > 0
    assert settings or len(few) + few.removed["most"] == len(every)


def test_a_bad_image_is_an_error_or_reported(tmp_path, predictor, shots):
    (tmp_path / "bad.png").write_bytes(b"no image")
    source = [shots / "0.png", tmp_path / "bad.png", shots / "1.png"]
    with pytest.raises(UserError, match=r"bad\.png"):
        predictor.predict(source)
    reported = []
    found = list(predictor.stream(source, batch=2, on_error=lambda name, error: reported.append(name)))
    assert reported == ["bad.png"]
    assert [part.images.file_name.tolist() for part in found] == [["0.png"], ["1.png"]]
    assert [part.images.id.tolist() for part in found] == [[1], [2]]
    assert not list(predictor.stream(tmp_path / "bad.png", on_error=lambda name, error: None))
    whole = predictor.predict(source, batch=2, on_error=lambda name, error: reported.append(name))
    assert reported == ["bad.png"] * 2 and equal(whole, mtseg.inference.result.Result.join(found))
    with pytest.raises(UserError, match="none could be read"):
        predictor.predict(tmp_path / "bad.png", on_error=lambda name, error: None)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state.pop("decoder.norm.weight"), "decoder.norm.weight is missing"),
        (lambda state: state.update(other=torch.zeros(3)), "other is unknown"),
        (lambda state: state.update({"decoder.norm.weight": torch.ones(7)}), "decoder.norm.weight has the shape"),
        (lambda state: state.update({"decoder.norm.weight": torch.ones(32, dtype=torch.int64)}), "is torch.int64"),
        (lambda state: state["decoder.norm.weight"][:1].fill_(torch.nan), "is damaged, its tensor decoder.norm.weight"),
    ],
)
def test_tensors_that_do_not_fit_are_one_line(tmp_path, segmenter, change, words):
    state, _ = weights.load(segmenter)
    change(state)
    weights.write(tmp_path / "unfit.safetensors", state, metadata.read(segmenter).text())
    with pytest.raises(mtseg.UserError, match=words) as error:
        mtseg.load(tmp_path / "unfit.safetensors", device="cpu")
    assert "\n" not in str(error.value) and "unfit.safetensors" in str(error.value) and "again" in str(error.value)


def test_a_file_that_is_cut_anywhere_is_one_line(tmp_path, segmenter):
    data, cut = segmenter.read_bytes(), tmp_path / "cut.safetensors"
    for size in (0, 7, 100, len(data) // 2, len(data) - 1):
        cut.write_bytes(data[:size])
        with pytest.raises(mtseg.UserError, match="cut.safetensors is broken") as error:
            mtseg.load(cut, device="cpu")
        assert "\n" not in str(error.value)


def test_half_precision_weights_are_taken(tmp_path, segmenter, predictor, shots):
    state, _ = weights.load(segmenter)
    half = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
    weights.write(tmp_path / "half.safetensors", half, metadata.read(segmenter).text())
    found = mtseg.load(tmp_path / "half.safetensors", device="cpu").predict(shots / "0.png")
    assert len(found) and len(found) == pytest.approx(len(predictor.predict(shots / "0.png")), abs=3)


def test_settings_out_of_range_and_of_other_types_are_one_line(predictor, shots, segmenter):
    image = shots / "0.png"
    for given in [
        *({"batch": value} for value in (0, -1, 1.5, "2", None, True)),
        *({"score": value} for value in (2, -0.1, float("nan"), "x", True, [0.5])),
        *({"tile": value} for value in (0, 1.5, "x")), *({"tile": 64, "overlap": value} for value in ("x", 2)),
    ]:  # fmt: skip
        with pytest.raises(mtseg.UserError, match=f"^{[*given][-1]}: ") as error:
            predictor.predict(image, **given)
        assert "\n" not in str(error.value)
    given = [{"batch": np.int64(2)}, {"score": np.float32(0.5)}, {"tile": np.int64(64), "overlap": np.float32(0.2)}]
    for settings in [*given, {"score": 0}, {"score": 1}]:
        predictor.predict(image, **settings)
    for wrong in (lambda: mtseg.load(3), lambda: mtseg.load(None), lambda: mtseg.load(segmenter, device=0)):
        with pytest.raises(mtseg.UserError):
            wrong()


def test_an_empty_folder_an_empty_list_and_an_unknown_device_are_errors(tmp_path, predictor, segmenter):
    with pytest.raises(UserError, match="no image"):
        predictor.predict(tmp_path)
    with pytest.raises(UserError, match="no image"):
        predictor.predict([])
    for name in ("mps", "cpu:1", ""):
        with pytest.raises(UserError, match="is unknown: use auto, cpu, cuda or cuda:1"):
            mtseg.load(segmenter, device=name)
    with pytest.raises(UserError, match="device: tpu is unknown"):
        mtseg.load(segmenter, device="tpu")


def test_a_device_that_is_not_there_is_one_line():
    for name in ("cuda:99", "cuda:256", "cuda:999"):  # PyTorch keeps the number in a byte: 256 is 0, 999 is -25
        with pytest.raises(UserError, match=f"device: {name} is not available"):
            pick(name)
