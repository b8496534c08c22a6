"""`mtseg predict`: what it writes, what it refuses, and that an interruption leaves no trace in the outputs."""

import json
import os
import shutil
import signal

import cv2
import numpy as np
import pandas as pd
import PIL.Image
import pytest

import mtseg as library
from mtseg.inference import export, folder
from tests.cli.conftest import content, start, write_images


@pytest.fixture
def predict(mtseg, segmenter, tmp_path):
    def run(*arguments, out="out", batch=2):
        given = ("--weights", segmenter, "--out", tmp_path / out, "--batch", batch, "--device", "cpu")
        return mtseg("predict", *arguments, *given)

    return run


def names(out):
    return [image["file_name"] for image in json.loads((out / "predictions.coco.json").read_bytes())["images"]]


def test_every_format_has_the_predictions_of_the_python_interface(predict, tmp_path, shots, segmenter):
    done = predict(shots, "--format", ",".join(export.FORMATS))
    assert done.code == 0 and "5 images" in done.out and "5/5" in done.err and "images/s" in done.err
    result = library.load(segmenter, device="cpu").predict(shots, batch=2)
    assert len(result) and f"{len(result)} predictions" in done.out
    for format in export.FORMATS:
        export.write(format, tmp_path / "expected", result.images, result, result.tasks)
    found = content(tmp_path / "out")
    record = json.loads(found.pop("run.json"))
    assert {path.partition("/")[0] for path in found} == {*record["outputs"]}
    kept = [found.pop(f"{folder.KEPT}/{name}.parquet") for name in ("images", "predictions")]
    assert found == content(tmp_path / "expected") and all(kept) and folder.KEPT not in done.out
    assert record["images"] == 5 and record["predictions"] == len(result)


def test_the_smallest_score_is_that_of_the_option(predict, tmp_path, shots):
    predict(shots, "--format", "csv")
    every = pd.read_csv(tmp_path / "out" / "predictions.csv")
    limit = float(every.score.median())
    predict(shots, "--format", "csv", "--score", limit, out="few")
    few = pd.read_csv(tmp_path / "few" / "predictions.csv")
    assert 0 < len(few) < len(every) and few.score.min() >= limit


def test_a_line_says_what_the_filter_removed_also_of_a_run_that_is_finished(predict, tmp_path, shots, segmenter):
    result = library.load(segmenter, device="cpu").predict(shots, score=1)
    line = f"removed by the filter: {result.removed['min_score']} (filter.min_score {result.removed['min_score']})"
    for _ in range(2):
        done = predict(shots, "--score", 1)
        assert f"{line}; 5 of 5 images without a prediction" in done.out.splitlines()
        assert "--score 0" in done.out
    assert "--score 0" not in predict(shots, "--score", 0, out="all").out


def test_a_run_of_an_older_version_is_started_again_only_on_demand(predict, tmp_path, shots):
    predict(shots)
    record = json.loads((tmp_path / "out/run.json").read_bytes())
    del record["removed"]
    (tmp_path / "out/run.json").write_text(json.dumps(record))
    done = predict(shots)
    assert done.code == 1 and done.err.count("\n") == 1 and "--overwrite" in done.err
    assert predict(shots, "--overwrite").code == 0


def test_a_list_a_pattern_and_a_file_twice(predict, tmp_path, shots):
    write_images(tmp_path / "more", ["a/x.png", "b/y.png", "b/z.jpg"])
    assert predict(shots / "3.png", tmp_path / "more" / "*" / "*.png", shots).code == 0
    assert names(tmp_path / "out") == ["3.png", "a/x.png", "b/y.png", "0.png", "1.png", "2.png", "4.png"]


def test_files_of_one_name_are_distinguished_by_their_folders(predict, tmp_path):
    for place in ("x/shots", "y/shots"):
        write_images(tmp_path / place, ["1.png", "deep/2.png"])
    write_images(tmp_path / "z", ["9.png"])
    assert predict(tmp_path / "x/shots", tmp_path / "y/shots", tmp_path / "z", "--format", "coco,labelme").code == 0
    two = [f"{place}/shots/{name}" for place in "xy" for name in ("1.png", "deep/2.png")]
    assert names(tmp_path / "out") == [*two, f"{tmp_path.name}/z/9.png"]
    assert (tmp_path / "out/labelme/y/shots/deep/2.json").is_file()


def test_outputs_in_the_folder_of_images_are_no_images(predict, tmp_path, shots):
    write_images(tmp_path, ["out/images/0.png"])
    shutil.move(tmp_path / "out", tmp_path / "kept")
    predict(shots, out="shots/out")
    write_images(shots / "out", ["images/0.png"])
    assert predict(shots, out="shots/out").code == 0, "the list of images is still the same"


def video(path, frames):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 5, (64, 48))
    assert writer.isOpened(), "OpenCV has an encoder of its own for MJPEG"
    for number in range(frames):
        writer.write(np.full((48, 64, 3), 30 * number, dtype=np.uint8))
    writer.release()
    return path


def test_a_video_is_its_frames(predict, tmp_path):
    film = video(tmp_path / "film.avi", 5)
    done = predict(film)
    assert done.code == 0 and "0/5" in done.err
    assert names(tmp_path / "out") == [f"film.avi#{number}" for number in range(5)]
    write_images(tmp_path / "both", ["z.png"])
    shutil.move(film, tmp_path / "both")
    assert predict(tmp_path / "both", out="more").code == 0
    assert names(tmp_path / "more") == [*(f"film.avi#{number}" for number in range(5)), "z.png"]


def test_a_video_that_is_cut_off_is_noted(predict, tmp_path):
    film = video(tmp_path / "film.avi", 8)
    os.truncate(film, film.stat().st_size - 1000)
    done = predict(film)
    found = len(names(tmp_path / "out"))
    assert 0 < found < 7 and f"note: {film} ends after {found} of its 8 frames: is it cut off?" in done.err
    assert done.code == 0


def test_an_image_too_large_for_the_memory_is_named(predict, shots, monkeypatch):
    decode = library.inference.sources.decode

    def fail(path, **limits):
        if path.name == "3.png":
            raise MemoryError
        return decode(path, **limits)

    monkeypatch.setattr(library.inference.sources, "decode", fail)
    done = predict(shots)
    assert done.code == 1 and done.err.splitlines()[-1].startswith("error: 3.png: not enough memory")


def test_bad_images_are_skipped_listed_and_counted(predict, tmp_path, shots):
    (shots / "0.png").write_bytes(b"no image")
    (shots / "3.png").write_bytes((shots / "3.png").read_bytes()[:200])
    (shots / "4.png").unlink()
    (shots / "4.png").symlink_to(tmp_path / "cleaned/4.png")
    (shots / "loop.png").symlink_to(shots / "loop.png")
    film = tmp_path / "film.mp4"
    film.write_bytes(b"no video")
    done = predict(shots, film)
    assert done.code == 2 and "2 images" in done.out and "5 skipped" in done.out
    lines = [line for line in done.err.splitlines() if line.startswith("skipped: ")]
    names_in_order = ["0.png", "3.png", "4.png", "loop.png", "film.mp4"]
    assert len(lines) == 5 and all(name in line for name, line in zip(names_in_order, lines, strict=True))
    failed = pd.read_csv(tmp_path / "out" / "failed.csv")
    assert failed.file_name.tolist() == names_in_order
    assert names(tmp_path / "out") == ["1.png", "2.png"]
    assert predict(shots, film).code == 2, "also when nothing is left to do"


def test_bad_images_alone_are_an_error(predict, tmp_path, shots):
    for path in shots.iterdir():
        path.write_bytes(b"no image")
    done = predict(shots)
    assert done.code == 1 and "none of 5 images" in done.err
    assert len(pd.read_csv(tmp_path / "out" / "failed.csv")) == 5
    assert not (tmp_path / "out" / "predictions.coco.json").exists()


def test_exif_rotates(predict, tmp_path):
    image, exif = PIL.Image.new("RGB", (40, 20)), PIL.Image.Exif()
    exif[0x0112] = 6  # orientation: rotate by 90 degrees
    image.save(tmp_path / "turned.jpg", exif=exif)
    predict(tmp_path / "turned.jpg")
    (one,) = json.loads((tmp_path / "out" / "predictions.coco.json").read_bytes())["images"]
    assert (one["width"], one["height"]) == (20, 40)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--format", "coco,xml"), ["xml", "labelme", "parquet"]),
        (("--format", ","), ["coco", "yolo"]),
        (("--score", "1.5"), ["--score", "less than or equal to 1"]),
        (("--batch", "0"), ["--batch", "greater than or equal to 1"]),
        (("--weigths", "x"), ["--weigths", "--weights", "mtseg predict --help"]),
        (("--device", "tpu"), ["tpu", "auto", "cpu", "cuda"]),
    ],
)
def test_wrong_arguments_are_one_line(mtseg, segmenter, tmp_path, shots, arguments, words):
    given = ("--weights", segmenter, "--out", tmp_path / "out")
    done = mtseg("predict", shots, *given, *arguments)
    assert done.code == 1 and done.err.startswith("error: ") and done.err.count("\n") == 1
    assert all(word in done.err for word in words), done.err
    assert not (tmp_path / "out").exists()


def test_missing_files_and_foreign_ones_are_one_line(mtseg, segmenter, tmp_path, shots):
    for source, weights, word in [
        (tmp_path / "none", segmenter, "none"),
        ("", segmenter, "a source is empty"),
        (tmp_path / "*.gif", segmenter, "*.gif"),
        (shots, tmp_path / "none.safetensors", "none.safetensors"),
        (shots, shots / "0.png", ".safetensors or .onnx"),
    ]:
        done = mtseg("predict", source, "--weights", weights, "--out", tmp_path / "out")
        assert done.code == 1 and word in done.err and done.err.count("\n") == 1, done.err
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_left_alone(predict, tmp_path, shots):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    for arguments in ((), ("--overwrite",)):
        done = predict(shots, *arguments)
        assert done.code == 1 and "not empty" in done.err
    (tmp_path / "out" / "run.json").write_text('{"mine": 1}')
    assert predict(shots, "--overwrite").code == 1
    assert content(tmp_path / "out") == {"notes.txt": b"mine", "run.json": b'{"mine": 1}'}
    done = predict(shots, out="shots/0.png")
    assert done.code == 1 and "is a file" in done.err


def test_another_run_is_overwritten_on_request_only(predict, tmp_path, shots):
    predict(shots, "--format", "csv,labelme")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    before = content(tmp_path / "out")
    for arguments, batch, words in [
        (("--format", "csv,labelme"), 3, ["batch 2", "3", "--overwrite"]),
        (("--format", "csv,labelme", "--score", "0.5"), 2, ["--score the default, not 0.5"]),
        (("--format", "csv,labelme", "--save-images"), 2, ["--save-images off, not on"]),
    ]:
        done = predict(shots, *arguments, batch=batch)
        assert done.code == 1 and done.err.count("\n") == 1 and all(word in done.err for word in words), done.err
    write_images(shots, ["new.png"])
    done = predict(shots, "--format", "csv,labelme")
    assert done.code == 1 and "images" in done.err
    assert content(tmp_path / "out") == before
    assert predict(shots, "--format", "coco", "--overwrite").code == 0
    visible = {path for path in content(tmp_path / "out") if not path.startswith(folder.KEPT)}
    assert visible == {"notes.txt", "run.json", "predictions.coco.json"}
    assert len(names(tmp_path / "out")) == 6


def test_a_finished_run_is_not_repeated(predict, tmp_path, shots):
    first = predict(shots, "--format", "parquet,csv")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    again = predict(shots, "--format", "csv, parquet,csv")
    assert again.code == 0 and again.out == first.out
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before


def test_a_finished_run_gets_further_formats_without_predicting_again(predict, tmp_path, shots, monkeypatch):
    (shots / "bad.png").write_bytes(b"no image")
    predict(shots, "--format", "csv,labelme,coco", out="whole")
    predict(shots, "--format", "csv")
    stamp = (tmp_path / "out/predictions.csv").stat().st_mtime_ns
    monkeypatch.setattr(library, "load", lambda *_, **__: pytest.fail("a model is loaded"))
    done = predict(shots, "--format", "csv,labelme")
    assert done.code == 2 and "only --format labelme was written" in done.err and "5 images" in done.out
    assert (tmp_path / "out/predictions.csv").stat().st_mtime_ns == stamp
    predict(shots, "--format", "coco")
    assert content(tmp_path / "out") == content(tmp_path / "whole")
    shutil.rmtree(tmp_path / "out/labelme")
    assert "only --format labelme" in predict(shots, "--format", "csv,labelme").err
    assert content(tmp_path / "out") == content(tmp_path / "whole")
    (tmp_path / "out" / folder.PARTS / "000000000000").mkdir(parents=True)  # as a kill at the end leaves it
    assert "nothing to do" in predict(shots, "--format", "csv").err
    assert content(tmp_path / "out") == content(tmp_path / "whole") and not (tmp_path / "out" / folder.PARTS).exists()
    shutil.rmtree(tmp_path / "out" / folder.KEPT)
    assert "nothing to do" in predict(shots, "--format", "csv").err
    before, done = content(tmp_path / "out"), predict(shots, "--format", "yolo,csv")
    assert done.code == 1 and done.err.count("\n") == 1 and "--format yolo" in done.err and "--overwrite" in done.err
    assert content(tmp_path / "out") == before


def test_ctrl_c_stops_after_the_batch_and_the_same_command_continues(predict, tmp_path, segmenter):
    shots = write_images(tmp_path / "shots", [f"{i:03}.png" for i in range(60)])
    (shots / "007.png").write_bytes(b"no image")
    broken = start(
        "predict", shots, "--weights", segmenter, "--out", tmp_path / "broken", "--batch", 2, "--device", "cpu"
    )  # fmt: skip
    assert "0/60" in broken.stderr.readline()
    while not any("007.png" in line for line in iter(broken.stderr.readline, "")):
        assert broken.poll() is None
    broken.send_signal(signal.SIGINT)
    _, errors = broken.communicate(timeout=60)
    assert broken.returncode == 130 and "Traceback" not in errors
    (span,) = (tmp_path / "broken" / ".parts").glob("*/span.json")
    stopped = json.loads(span.read_bytes())
    assert len(stopped["failed"]) == 1 and 7 <= stopped["images"] < 59
    assert f"interrupted after {stopped['images'] + 1} images" in errors
    other = predict(shots, out="broken", batch=4)
    assert other.code == 1 and "batch 2, not 4" in other.err
    continued = predict(shots, out="broken")
    assert continued.code == 2 and f"{stopped['images'] + 1}/60" in continued.err
    assert predict(shots, out="unbroken").code == 2
    assert content(tmp_path / "broken") == content(tmp_path / "unbroken")


def two_signals():
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGINT)


def too_little_memory():
    raise MemoryError


@pytest.mark.parametrize("act", [two_signals, too_little_memory])
def test_a_batch_that_is_cut_short_is_predicted_again_as_a_whole(predict, tmp_path, shots, monkeypatch, act):
    """Also if an image in it is broken."""
    (shots / "2.png").write_bytes(b"no image")
    assert predict(shots, out="whole").code == 2
    with monkeypatch.context() as patch:
        patch.setattr(library.inference.predictor.Predictor, "_results", fail_at(patch, 2, act))
        predict(shots)
    assert "2/5" in (done := predict(shots)).err and done.code == 2
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_a_name_that_is_not_utf_8_costs_its_image_alone(predict, tmp_path, shots):
    shutil.copy(next(shots.iterdir()), os.fsencode(shots / "bad") + b"\xff.png")
    done = predict(shots)
    assert done.code == 2 and "bad\\udcff.png: the name of this file is not UTF-8" in done.err
    assert "bad" in (tmp_path / "out/failed.csv").read_text() and len(names(tmp_path / "out")) > 1


def test_ctrl_c_stops_within_a_large_image(predict, tmp_path, monkeypatch):
    shots = write_images(tmp_path / "shots", ["a.png"], size=(200, 180))
    seen = []

    def stop(self, done, count):
        seen.append(done)
        os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr("mtseg.cli.predict._Progress.tiles", stop)
        assert predict(shots, "--tile", 64).code == 130
    assert seen == [2]
    assert predict(shots, "--tile", 64).code == 0


def test_a_killed_run_loses_the_last_part_only(predict, tmp_path, shots, segmenter, monkeypatch):
    """In parts of other sizes the outputs are the same, and a format that fails at the end costs no prediction."""
    predict(shots, "--format", "parquet,coco", out="whole")
    monkeypatch.setattr(folder, "PART", 2)
    found = folder.gather([str(shots)], tmp_path / "out")
    settings = json.loads((tmp_path / "whole" / "run.json").read_bytes())["settings"]
    predictor = library.load(segmenter, device="cpu")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".tmp-run.json").touch()  # killed while the first file is written
    run = folder.Run(tmp_path / "out", settings)
    with run.started():
        for some in (found[:2], found[2:4], found[4:]):
            run.add(list(predictor.stream(some, batch=2, first=run.next_id)))
    del run  # without save()
    assert folder.Run(tmp_path / "out", settings).done == 4
    assert predict(shots, "--format", "parquet,coco").code == 0
    assert content(tmp_path / "out") == content(tmp_path / "whole")
    (tmp_path / "out" / folder.OLD / "000000000000").mkdir(parents=True)  # killed while the parts are removed
    assert predict(shots, "--format", "parquet,coco").code == 0
    assert not (tmp_path / "out" / folder.OLD).exists()


@pytest.mark.parametrize("name", ["predictions.parquet", "images.parquet", "span.json", "missing"])
def test_a_damaged_part_and_those_after_it_are_predicted_again(predict, tmp_path, shots, monkeypatch, name):
    assert predict(shots, out="whole").code == 0
    monkeypatch.setattr(folder, "SECONDS", 0)
    with monkeypatch.context() as patch:
        patch.setattr(folder.Run, "finish", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            predict(shots)
    part = tmp_path / "out" / folder.PARTS / f"{2:012}"
    if name == "missing":
        shutil.rmtree(part)
        part = part.with_name(f"{4:012}")  # parts hold one or two images
    else:
        os.truncate(part / name, 10)
    done = predict(shots)
    fault = "damaged, or a part before it is missing"
    assert f"{part} is {fault}: images from number 3 on are predicted again" in done.err.splitlines()
    assert done.code == 0 and "2/5" in done.err and content(tmp_path / "out") == content(tmp_path / "whole")


def test_outputs_are_on_the_disk_before_the_parts_go(predict, tmp_path, shots, monkeypatch):
    synced, sync = [], folder.sync

    def recorded(path):
        assert (tmp_path / "out" / folder.PARTS).exists() or path.name == "run.json"
        synced.append(path.name)
        sync(path)

    monkeypatch.setattr(folder, "sync", recorded)
    assert predict(shots).code == 0
    assert synced == ["run.json", "outputs", "run.json"]


def test_a_damaged_record_or_table_of_a_run_is_one_line_and_overwritten_on_demand(predict, tmp_path, shots):
    assert predict(shots, out="whole").code == 0
    for name, more in (("run.json", ()), (f"{folder.KEPT}/predictions.parquet", ("--format", "csv"))):
        predict(shots, "--overwrite")
        os.truncate(tmp_path / "out" / name, 10)
        done = predict(shots, *more)
        assert done.code == 1 and name in done.err and "--overwrite" in done.err and "dvc" not in done.err
        assert done.err.count("\n") == 1
        assert predict(shots, "--overwrite").code == 0
        assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_two_processes_do_not_write_to_one_folder(predict, tmp_path, shots, segmenter):
    predict(shots, out="whole")
    settings = json.loads((tmp_path / "whole" / "run.json").read_bytes())["settings"]
    run, late = (folder.Run(tmp_path / "out", settings) for _ in range(2))
    with run.started():
        for more in ((), ("--overwrite",)):
            done = predict(shots, *more)
            assert done.code == 1 and f": process {os.getpid()} on " in done.err.splitlines()[-1]
        run.add(list(library.load(segmenter, device="cpu").stream(shots, batch=2)))
        run.save()
    with pytest.raises(library.UserError, match="give the command again"), late.started():
        pytest.fail("nothing is written")
    assert predict(shots).code == 0
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_names_that_a_format_cannot_carry_are_refused_before_anything_is_predicted(predict, tmp_path, shots):
    write_images(shots, ["0.jpg"])
    done = predict(shots, "--format", "coco,labelme")
    assert done.code == 1 and "0.jpg" in done.err and "0.png" in done.err
    write_images(shots, ["0.png.jpg"])
    done = predict(shots, "--format", "coco", "--save-images")
    assert done.code == 1 and "'0.png'" in done.err and "'0.png.jpg'" in done.err
    assert not (tmp_path / "out").exists()
    assert predict(shots, "--format", "coco").code == 0


def test_an_interrupted_run_with_overwrite_is_continued_by_the_same_command(predict, tmp_path, shots, monkeypatch):
    predict(shots, "--format", "csv")
    write_images(shots, ["new.png"])
    monkeypatch.setattr(folder, "SECONDS", 0)
    with monkeypatch.context() as patch:
        patch.setattr(folder.Run, "finish", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            predict(shots, "--format", "csv", "--overwrite")
    assert "6/6" in predict(shots, "--format", "csv", "--overwrite").err.splitlines()[0]
    assert "0/6" in predict(shots, "--format", "csv", "--overwrite").err.splitlines()[0], "a finished one starts again"


def test_what_is_predicted_is_saved_when_an_error_ends_the_run(predict, tmp_path, shots, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(library.inference.predictor.Predictor, "_results", fail_at(patch, 2))
        with pytest.raises(ZeroDivisionError):
            predict(shots)
    assert "2/5" in predict(shots).err.splitlines()[0]


def fail_at(patch, number, fail=lambda: 1 / 0):
    """`Predictor._results` that fails at this call."""
    calls, function = [], library.inference.predictor.Predictor._results

    def results(self, *arguments, **options):
        calls.append(1)
        if len(calls) == number:
            fail()
        yield from function(self, *arguments, **options)

    return results


def test_links_are_images_of_their_own_and_loops_end(predict, tmp_path, shots):
    (shots / "link.png").symlink_to(shots / "0.png")
    (tmp_path / "far/deep").mkdir(parents=True)
    write_images(tmp_path / "far", ["0.png"])
    (shots / "away").symlink_to(tmp_path / "far/deep")
    (shots / "loop").symlink_to(shots)
    assert predict(shots, shots / "away/../0.png").code == 0
    found = names(tmp_path / "out")
    assert len(found) == 7 and len({*found}) == 7 and sum(name.endswith("link.png") for name in found) == 1
    assert sum(name.endswith("far/0.png") for name in found) == 1


def test_an_overlap_without_tiles_is_refused(predict, shots):
    done = predict(shots, "--overlap", "0.3")
    assert done.code == 1 and "--overlap" in done.err and "--tile" in done.err


def test_overlays_are_saved_of_every_image(predict, tmp_path, shots):
    write_images(shots, ["deep/photo.jpg"])
    done = predict(shots, "--save-images", "--format", "csv")
    assert done.code == 0 and "images" in done.out
    found = {path.relative_to(tmp_path / "out" / "images").as_posix() for path in (tmp_path / "out").rglob("*.jpg")}
    assert found == {*(f"{i}.png.jpg" for i in range(5)), "deep/photo.jpg"}
    with PIL.Image.open(tmp_path / "out" / "images" / "0.png.jpg") as image:
        assert image.format == "JPEG"
    predict(shots, "--format", "csv", "--overwrite")
    assert not (tmp_path / "out" / "images").exists()


def test_files_of_others_in_the_folder_of_overlays_stay(predict, tmp_path, shots):
    write_images(shots, ["deep/photo.jpg"])
    predict(shots, "--save-images", "--format", "csv")
    write_images(tmp_path / "out/images", ["deep/mine.jpg", "mine.png"])
    mine = content(tmp_path / "out/images/deep")["mine.jpg"]
    assert predict(shots, "--format", "csv", "--overwrite").code == 0
    assert {*content(tmp_path / "out/images")} == {"deep/mine.jpg", "mine.png"}
    (tmp_path / "out/images/deep/mine.jpg").rename(tmp_path / "out/images/3.png.jpg")
    done = predict(shots, "--save-images", "--format", "csv", "--overwrite")
    assert done.code == 1 and "images/3.png.jpg" in done.err and done.err.count("\n") == 1
    assert content(tmp_path / "out/images")["3.png.jpg"] == mine and (tmp_path / "out/predictions.csv").exists()


@pytest.mark.parametrize("out", ["shots/0.png/out", "loop", "loop/out", "dangling", "x" * 300])
def test_a_path_of_outputs_that_cannot_be_is_one_line(predict, tmp_path, shots, out):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "dangling").symlink_to(tmp_path / "missing/deep")
    done = predict(shots, out=out)
    assert done.code == 1 and done.err.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in done.err


@pytest.mark.parametrize("out", ["a:b", "file:x", "~", "s3:", "%41?b=1"])
def test_a_folder_whose_name_looks_like_an_address_is_a_folder(
    mtseg, onnx_segmenter, tmp_path, shots, monkeypatch, out
):
    monkeypatch.chdir(tmp_path)
    given = ("predict", "shots/0.png", "--weights", onnx_segmenter, "--format", ",".join(export.FORMATS), "--out", out)
    assert mtseg(*given).code == 0
    assert {"predictions.csv", "predictions.parquet"} <= {path.name for path in (tmp_path / out).iterdir()}


def test_names_that_are_not_utf8_and_images_that_go_are_no_traceback(
    mtseg, onnx_segmenter, tmp_path, shots, monkeypatch
):
    done = mtseg("predict", shots, "--weights", onnx_segmenter, "--out", tmp_path / "\udcff")
    assert done.code == 1 and done.err.count("\n") == 1 and "UTF-8" in done.err
    gather = folder.gather

    def slow(*given):
        found = gather(*given)
        (shots / "1.png").unlink()
        return found

    monkeypatch.setattr(folder, "gather", slow)
    done = mtseg("predict", shots, "--weights", onnx_segmenter, "--out", tmp_path / "out")
    assert done.code == 2 and "1.png: no such file" in done.err


def test_tiles_are_reported_and_proposed_for_large_images(predict, shots, monkeypatch):
    monkeypatch.setattr("mtseg.cli.predict.SECONDS", 0)
    assert "--tile" not in predict(shots).err
    write_images(shots, ["large.png", "larger.png", "\x1blarge.png"], size=(400, 300))
    done = predict(shots, out="large")
    assert done.err.count("--tile") == 1 and r"\x1blarge.png has 400 x 300" in done.err and "\x1b" not in done.err
    done = predict(shots / "large.png", "--tile", "200", "--overlap", "0", out="tiles")
    assert "tile 2 of 4" in done.err and "tile 4 of 4" in done.err and done.err.count("--tile") == 0
    assert done.out.startswith("1 image, ")


def test_a_folder_that_cannot_be_written_is_one_line(predict, shots):
    done = predict(shots, out="/proc/out")  # not even by root
    assert done.code == 1 and "/proc/out" in done.err and done.err.count("\n") == 1


def test_a_large_run_says_in_lines_how_far_it_is(predict, tmp_path, shots, monkeypatch):
    monkeypatch.setattr("mtseg.cli.predict.SECONDS", 0)
    assert [line.partition(" ")[0] for line in predict(shots).err.splitlines()] == ["0/5", "2/5", "4/5", "5/5", "5/5"]
