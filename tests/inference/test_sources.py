"""What a model predicts on: which images are found, under which names, and that each decodes as it must."""

import errno
import os
import pickle
from itertools import islice

import cv2
import numpy as np
import PIL.Image
import pytest
import torch

from mtseg.core.errors import UserError
from mtseg.inference import sources
from mtseg.inference.overlay_files import MADE
from mtseg.inference.sources import File, batches, files, find


def save(path, size=(8, 6), colour=(255, 0, 0), **options):
    """size: width, height."""
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.new("RGB", size, colour).save(path, **options)
    return path


def names(source):
    return [one.name for one in find(source)]


@pytest.fixture
def shots(tmp_path):
    for name in ("b.jpg", "a.PNG", "deep/c.bmp", "deep/er/d.webp"):
        save(tmp_path / "shots" / name)
    (tmp_path / "shots" / "a.json").write_text("{}")
    (tmp_path / "shots" / "folder.png").mkdir()
    return tmp_path / "shots"


def test_a_folder_gives_its_images_and_those_below_sorted(shots):
    assert names(shots) == names(str(shots)) == ["a.PNG", "b.jpg", "deep/c.bmp", "deep/er/d.webp"]
    assert [one.path for one in find(shots)] == [shots / name for name in names(shots)]


def test_a_pattern_gives_what_fits_it_under_its_fixed_part(shots, monkeypatch):
    assert names(str(shots / "*.jpg")) == ["b.jpg"]
    assert names(str(shots / "**" / "*.[bw]*")) == ["deep/c.bmp", "deep/er/d.webp"]
    monkeypatch.chdir(shots)
    assert names("*/*.bmp") == ["deep/c.bmp"]
    assert names("deep/er/../*.bmp") == names("deep/*/../*.bmp") == ["c.bmp"]


def test_images_that_mtseg_has_drawn_are_left_out_unless_their_path_is_given(shots):
    drawn = save(shots / "found" / "images" / "b.jpg", comment=MADE)
    assert names(shots) == ["a.PNG", "b.jpg", "deep/c.bmp", "deep/er/d.webp"]
    assert names(str(shots / "**" / "*.jpg")) == ["b.jpg"]
    assert names(drawn) == ["b.jpg"]
    for source in (drawn.parent, str(drawn.parent / "*.jpg")):
        with pytest.raises(UserError, match="but images that mtseg has drawn"):
            files(source)


def test_a_url_is_to_be_downloaded_first():
    with pytest.raises(UserError, match=r"https://x.org/a.jpg is a URL: download it first"):
        names("https://x.org/a.jpg")


def test_a_path_with_the_signs_of_a_pattern_is_a_path(tmp_path):
    save(tmp_path / "a[1].png")
    assert names(tmp_path / "a[1].png") == ["a[1].png"]


def test_a_list_gives_all_in_its_order(shots):
    image, pixels = PIL.Image.new("RGB", (4, 5)), np.zeros((5, 4, 3), np.uint8)
    given = [image, shots / "b.jpg", [pixels, str(shots / "deep")], image]
    assert names(given) == ["image0", "b.jpg", "image1", "c.bmp", "er/d.webp", "image2"]
    assert names(tuple(given)) == names(iter(given)) == names(given)
    assert [one.read().shape for one in find(given)] == [(5, 4, 3), (6, 8, 3), (5, 4, 3), *[(6, 8, 3)] * 2, (5, 4, 3)]


def test_what_was_found_is_a_source_again(shots):
    assert names(list(find(shots))) == names(files(shots)) == names(shots)
    assert names(File(shots / "b.jpg", "other.jpg")) == ["other.jpg"]


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK", "1"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    image = PIL.Image.new("RGB", (8, 6), (200, 200, 200))
    image = image.quantize() if mode == "P" else image.convert(mode)
    image.save(tmp_path / "image.tif")
    for source in (tmp_path / "image.tif", image):
        (one,) = find(source)
        pixels = one.read()
        assert pixels.shape == (6, 8, 3) and pixels.dtype == np.uint8
        assert mode in ("1", "CMYK") or (abs(pixels.astype(int) - 200) < 9).all()


def test_16_bits_are_refused_and_transparent_pixels_become_white(tmp_path):
    deep = PIL.Image.new("I;16", (8, 6), 20000)
    deep.save(tmp_path / "deep.tif")
    for source in (tmp_path / "deep.tif", deep):
        with pytest.raises(UserError, match="I;16 has more than 8 bits"):
            next(iter(find(source))).read()
    clear = PIL.Image.new("RGBA", (2, 1), (200, 0, 0, 0))
    clear.putpixel((1, 0), (200, 0, 0, 255))
    clear.save(tmp_path / "clear.png")
    for source in (tmp_path / "clear.png", clear, clear.quantize()):
        assert next(iter(find(source))).read().tolist()[0][0] == [255, 255, 255]


def test_a_path_and_an_open_image_are_rotated_by_exif(tmp_path):
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # orientation: rotate by 90 degrees
    path = save(tmp_path / "turned.jpg", exif=exif)
    with PIL.Image.open(path) as image:
        for source in (path, image):
            assert next(find(source)).read().shape == (8, 6, 3)


def test_an_array_gives_the_pixels_of_its_file(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    alpha = np.array([0, 90, 200, 255], np.uint8)[None, :, None].repeat(5, axis=0)
    for pixels in (rgb, rgb[..., 0], rgb[..., :1], np.concatenate([rgb, alpha], axis=2)):
        PIL.Image.fromarray(pixels.squeeze()).save(tmp_path / "same.png")
        (ours,), (theirs,) = find(pixels), find(tmp_path / "same.png")
        assert ours.read().shape == (5, 4, 3) and np.array_equal(ours.read(), theirs.read())


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((5, 4, 2), np.uint8), np.zeros((5, 4, 5), np.uint8), np.zeros(5, np.uint8), np.zeros((), np.uint8),
        np.zeros((0, 4, 3), np.uint8), np.zeros((2, 5, 4, 3), np.uint8), np.zeros((5, 4), bool),
    ],
)  # fmt: skip
def test_other_arrays_are_refused_by_name(pixels):
    _, bad = find([np.zeros((5, 4), np.uint8), pixels])
    with pytest.raises(UserError, match="image1: "):
        bad.read()


def test_the_fix_of_a_refused_array_makes_an_image_of_it():
    rgb = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    for pixels in (
        rgb / 255,
        (rgb / 255).astype(np.float32),
        rgb.astype(np.uint16) * 257,
        rgb.transpose(2, 0, 1),
        rgb[None],
    ):
        with pytest.raises(UserError, match="image0: .* give ") as error:
            next(find(pixels)).read()
        fixed = eval(str(error.value).rpartition(" give ")[2], {"pixels": pixels})
        assert np.array_equal(next(find(fixed)).read(), rgb)


def test_what_holds_no_image_is_refused(tmp_path, shots):
    (tmp_path / "empty").mkdir()
    for source, words in [
        (tmp_path / "none.png", "none.png: no such file"),
        (tmp_path / "empty", "empty: no image"),
        (str(shots / "*.gif"), "no file matches"),
        (3, "cannot predict on a int"),
        ([shots, None], "cannot predict on a NoneType"),
        (b"bytes", "cannot predict on a bytes"),
        ({"a": 1}, "cannot predict on a dict"),
        (torch.zeros(3, 6, 8), "cannot predict on a Tensor: give .* NumPy array"),
        (torch.zeros(()), "cannot predict on a Tensor"),
    ]:
        with pytest.raises(UserError, match=words):
            list(find(source))


def test_an_image_that_does_not_decode_is_refused_when_it_is_read(tmp_path, shots):
    (shots / "b.jpg").write_bytes(b"no image")
    (shots / "a.PNG").write_bytes((shots / "a.PNG").read_bytes()[:50])
    bad = list(find(shots))[:2]
    (shots / "deep" / "c.bmp").unlink()
    for one in [*bad, File(shots / "deep" / "c.bmp", "c").images().__next__()]:
        with pytest.raises(UserError, match=one.path.name):
            one.read()


@pytest.fixture
def film(tmp_path):
    """Five frames, each of one colour: more red from one to the next."""
    path = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 5, (64, 48))
    assert writer.isOpened()
    for number in range(5):
        writer.write(np.full((48, 64, 3), (0, 0, 50 * number), dtype=np.uint8))  # OpenCV's order: BGR
    writer.release()
    return path


def test_a_video_gives_its_frames_in_rgb(film):
    frames = list(find(film))
    assert [one.name for one in frames] == [f"film.avi#{number}" for number in range(5)]
    for number, one in enumerate(frames):
        pixels = one.read().astype(int)
        assert pixels.shape == (48, 64, 3)
        assert (abs(pixels - (50 * number, 0, 0)) < 9).all()
    assert [one.name for one in islice(find([film, film]), 4, 6)] == ["film.avi#4", "film.avi#0"]


def test_a_released_frame_is_decoded_again(film):
    for one in [list(find(film))[i] for i in (0, 2)]:
        before = one.read()
        one.release()
        assert one.read.pixels is None
        assert (one.read() == before).all()


def test_images_are_counted_before_they_are_read(film, shots):
    assert sum(file.count() for source in (film, shots) for file in files(source)) == 9


def test_a_video_that_does_not_decode_is_one_bad_image(tmp_path):
    path = tmp_path / "film.mp4"
    path.write_bytes(b"no video")
    (one,) = find(path)
    with pytest.raises(UserError, match=r"film\.mp4"):
        one.read()


def test_a_video_whose_path_is_not_utf8_is_one_bad_image(tmp_path, film):
    """OpenCV would end the process."""
    folder = tmp_path / "f\udcfcr"
    folder.mkdir()
    film.rename(folder / film.name)
    (file,) = files(folder)
    assert file.count() == 1
    (one,) = find(folder)
    with pytest.raises(UserError, match="not UTF-8: rename it"):
        one.read()


def test_a_folder_that_cannot_be_read_is_not_left_out(shots, monkeypatch):
    """Root reads every folder: the system's refusal is put in its place."""
    scan = os.scandir

    def refuse(path):
        if str(path).endswith("er"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError, match="deep/er"):
        files(shots)


@pytest.mark.parametrize("name", ["pipe.png", "pipe.mp4"])
def test_a_pipe_is_refused_and_never_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(UserError, match=name):
        list(find(tmp_path / name))


def test_batches_are_full_but_the_last():
    found = list(find([np.zeros((2, 2), np.uint8)] * 5))
    assert [len(some) for some in batches(found, 2)] == [2, 2, 1]
    assert [len(some) for some in batches(found[:4], 2)] == [2, 2]
    assert list(sources.batches([], 2)) == []


def test_released_frames_in_order_are_decoded_in_one_pass(film, monkeypatch):
    frames = list(find(film))
    expected = [one.read() for one in frames]
    for one in frames:
        one.release()
    opened, open_video = [], cv2.VideoCapture
    monkeypatch.setattr(cv2, "VideoCapture", lambda path: opened.append(path) or open_video(path))
    for number in (0, 1, 3, 4):
        assert (frames[number].read() == expected[number]).all()
    assert len(opened) == 1
    assert (pickle.loads(pickle.dumps(frames[2])).read() == expected[2]).all()
