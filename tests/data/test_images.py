"""Reading the pixels of an image, and errors of one line."""

import base64
import io
import os
import struct

import numpy as np
import PIL.EpsImagePlugin
import PIL.Image
import PIL.ImageFile
import pytest

from mtseg.core.errors import UserError
from mtseg.core.tables import Image
from mtseg.data import images
from mtseg.data.images import read_image
from tests.data import folders


def save(path, size=(20, 10), **options):
    PIL.Image.new("RGB", size, (200, 0, 0)).save(path, **options)


def test_pixels_are_rgb_and_turned_as_exif_says(tmp_path):
    turned = PIL.Image.Exif()
    turned[0x0112] = 6
    save(tmp_path / "a.png", exif=turned)
    pixels = read_image(tmp_path, Image(1, "a.png", height=20, width=10))
    assert pixels.shape == (20, 10, 3) and pixels.dtype == np.uint8
    PIL.Image.new("P", (20, 10)).save(tmp_path / "b.png")
    assert read_image(tmp_path, Image(1, "b.png", height=10, width=20)).shape == (10, 20, 3)


def test_a_link_out_of_the_folder_is_read_only_if_links_are_followed(tmp_path):
    (tmp_path / "raw").mkdir()
    save(tmp_path / "away.png")
    save(tmp_path / "raw" / "own.png")
    for name, target in (("out.png", tmp_path / "away.png"), ("in.png", "own.png"), ("all", tmp_path)):
        (tmp_path / "raw" / name).symlink_to(target)
    (tmp_path / "link").symlink_to("raw")
    for root in (tmp_path / "raw", tmp_path / "link"):
        assert read_image(root, Image(1, "in.png", 10, 20)).any()
        for name in ("out.png", "all/away.png"):
            with pytest.raises(UserError, match=rf"{name} is a link that leads out of .* data.follow_links"):
                read_image(root, Image(1, name, 10, 20))
            assert read_image(root, Image(1, name, 10, 20, follow_links=True)).any()


def test_the_first_frame_of_an_mpo_is_read(tmp_path):
    path = folders.draw(tmp_path / "a.mpo", save_all=True, append_images=[PIL.Image.new("RGB", (40, 30))])
    assert path.suffix in images.suffixes()
    assert read_image(tmp_path, Image(1, path.name, 30, 40, ())).any()


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(UserError, match="a.jpg: no such image"):
        read_image(tmp_path, Image(1, "a.jpg", 10, 20))
    (tmp_path / "text.jpg").write_text("no image")
    with pytest.raises(UserError, match="text.jpg: the image does not decode"):
        read_image(tmp_path, Image(1, "text.jpg", 10, 20))
    folders.png_of_size(tmp_path / "bomb.png", 50_000, 50_000)
    with pytest.raises(UserError, match="bomb.png: the image does not decode .*50000 x 50000 pixels"):
        read_image(tmp_path, Image(1, "bomb.png", 50_000, 50_000))
    folders.png_of_size(tmp_path / "grown.png", 20_000, 20_000)
    with pytest.raises(UserError, match="grown.png: the image does not decode .*20000 x 20000 pixels"):
        read_image(tmp_path, Image(1, "grown.png", 20, 20))
    save(tmp_path / "whole.jpg", size=(200, 100))
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:800])
    with pytest.raises(UserError, match="cut.jpg: the image does not decode"):
        read_image(tmp_path, Image(1, "cut.jpg", 100, 200))
    with pytest.raises(UserError, match="whole.jpg: the image is 200 x 100, but was converted as 20 x 10"):
        read_image(tmp_path, Image(1, "whole.jpg", 10, 20))


@pytest.mark.parametrize("at_once", [2**26, 100])
def test_a_square_is_the_resized_image_and_in_strips_the_same_but_for_rounding(monkeypatch, at_once):
    monkeypatch.setattr(images, "AT_ONCE", at_once)
    rng = np.random.default_rng(0)
    for height, width in [(300, 77), (77, 300), (64, 200), (200, 64), (20, 10), (1, 500), (64, 64)]:
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        monkeypatch.setattr(images, "STRIP", 10 * width + 3)
        found, (own_height, own_width) = images.square(pixels, 64)
        wanted = PIL.Image.fromarray(pixels).resize((own_width, own_height), PIL.Image.Resampling.BILINEAR)
        off = np.abs(found[:own_height, :own_width].astype(int) - np.asarray(wanted))
        assert off.max() <= (0 if at_once > pixels.size else 1)
        assert max(own_height, own_width) == 64 and (found[own_height:] == 128).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "CMYK", "L", "1"])
def test_every_mode_is_read_as_it_is_seen_on_white(tmp_path, mode):
    transparent = mode in ("RGBA", "LA", "P")
    drawn = PIL.Image.new("RGBA", (40, 20), (0, 0, 0, 0 if transparent else 255))
    drawn.paste((0, 0, 0, 255), (20, 0, 40, 20))
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    if mode == "P":
        image = PIL.Image.new("P", drawn.size, 0)
        image.putpalette([200, 0, 0, 0, 0, 0])
        image.paste(1, (20, 0, 40, 20))
        image.save(path, transparency=0)
    else:
        drawn.convert(mode).save(path)
    pixels = read_image(tmp_path, Image(1, path.name, height=20, width=40))
    assert (pixels[:, :20] == (255 if transparent else 0)).all() and (pixels[:, 20:] == 0).all()


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_more_than_8_bits_are_refused_by_name(tmp_path, mode):
    PIL.Image.new(mode, (20, 10), 20000).save(tmp_path / "deep.tif")
    with pytest.raises(UserError, match=f"deep.tif: .*mode {mode} has more than 8 bits"):
        read_image(tmp_path, Image(1, "deep.tif", 10, 20))


@pytest.mark.filterwarnings("ignore")  # of Pillow, of what is damaged
@pytest.mark.parametrize("name", ["AVIF", "BMP", "DDS", "GIF", "ICNS", "JPEG", "PNG", "PPM", "SPIDER", "TIFF", "WEBP"])
def test_a_damaged_image_is_named_whatever_its_format(tmp_path, name):
    """Each format's plugin raises errors of other types."""
    content, rng = io.BytesIO(), np.random.default_rng(0)
    pixels = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
    PIL.Image.fromarray(pixels).convert("F" if name == "SPIDER" else "RGB").save(content, name)
    whole, refused = np.frombuffer(content.getvalue(), dtype=np.uint8), 0
    for _ in range(150):
        damaged = whole.copy()
        damaged[rng.integers(0, len(whole), 3)] = rng.integers(0, 256, 3)
        (tmp_path / "a.img").write_bytes(damaged[: rng.integers(1, len(whole) + 1) if rng.random() < 0.2 else None])
        try:
            images.open_image(tmp_path, Image(1, "a.img", 12, 16))
        except UserError as error:
            assert "a.img" in str(error)
            refused += 1
    assert refused


def test_an_error_of_any_type_in_a_decoder_names_the_image(tmp_path):
    """SPIDER: an image of a stack without the stack, for which Pillow raises AttributeError."""
    header = dict.fromkeys(range(27), 0.0) | {1: 16.0, 4: 1.0, 11: 12.0, 12: 1.0, 21: 108.0, 22: 108.0, 26: 3.0}
    (tmp_path / "a.spi").write_bytes(struct.pack(">27f", *header.values()) + bytes(4 * 16 * 12))
    with pytest.raises(AttributeError):
        PIL.Image.open(tmp_path / "a.spi")
    with pytest.raises(UserError, match=r"a\.spi: .*the file is damaged"):
        images.open_image(tmp_path, Image(1, "a.spi", 16, 12))


def test_an_error_of_any_type_in_a_decoder_is_a_bad_record(tmp_path, monkeypatch):
    def load(self):
        raise AttributeError("of the plugin")

    drawn = {"shape_type": "mask", "points": [[0, 0], [1, 1]]}
    content = io.BytesIO()
    PIL.Image.new("L", (2, 2), 255).save(content, "png")
    drawn["mask"] = base64.b64encode(content.getvalue()).decode()
    folders.labelme(tmp_path / "raw", "a", folders.shape("x")).with_suffix(".png").unlink()
    folders.draw(tmp_path / "raw" / "a.jpg")
    folders.labelme(tmp_path / "raw", "b", folders.shape("x", **drawn))
    folders.draw(tmp_path / "voc" / "images" / "a.jpg")
    folders.draw(tmp_path / "voc" / "masks" / "a" / "x_1.png")
    monkeypatch.setattr(PIL.ImageFile.ImageFile, "load", load)
    with pytest.raises(UserError) as caught:
        folders.converted(tmp_path / "raw", folders.tasks(part="auto"))
    lines = [line for line in str(caught.value).splitlines() if ".json" in line]
    assert [line.partition(": ")[2] for line in lines] == [
        *[f"{name} does not decode: the file is damaged" for name in ("a.jpg", "b.png")],
        "`mask` is not a PNG in base64",
    ]
    with pytest.raises(UserError, match="masks/a/x_1.png: does not decode: the file is damaged"):
        folders.converted(tmp_path / "voc", folders.tasks(part="auto"), format="masks")


def test_postscript_is_never_run_and_a_pipe_never_waited_for(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(PIL.EpsImagePlugin, "Ghostscript", lambda *arguments, **options: started.append(1))
    PIL.Image.new("RGB", (8, 8)).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "empty.png").touch()
    for name in ("a.png", "pipe.png", "empty.png"):
        with pytest.raises(UserError, match=name):
            images.open_image(tmp_path, Image(1, name, 8, 8))
    assert not started
