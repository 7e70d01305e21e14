import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cmkg
from cmkg.errors import InputError
from cmkg.hands.inference import pictures
from cmkg.hands.inference.pictures import list_files, read_any_picture, read_with_scale
from cmkg.hands.rendering.backgrounds import photographs

SIZE = (40, 30)  # width, height


def gradient():
    x = np.linspace(0, 255, SIZE[0])[None, :, None] * np.ones((SIZE[1], 1, 3))
    return x.astype(np.uint8)


@pytest.fixture
def image():
    return Image.fromarray(gradient())


def test_kinds_of_pictures_are_read(image, tmp_path):
    grey16 = Image.fromarray(gradient()[..., 0].astype(np.uint16) * 257)
    clear = image.convert("RGBA")
    clear.putalpha(0)
    saved = {
        "plain.png": (image, gradient()),
        "cmyk.jpg": (image.convert("CMYK"), gradient()),
        "grey.png": (image.convert("L"), gradient()),
        "palette.gif": (image.quantize(64), gradient()),
        "deep.png": (grey16, gradient()),
        "clear.png": (clear, np.full_like(gradient(), 255)),
    }
    for name, (one, expected) in saved.items():
        one.save(tmp_path / name)
        found = read_any_picture(tmp_path / name)
        assert found.shape == (30, 40, 3), name
        assert found.dtype == np.uint8
        assert np.abs(found.astype(int) - expected).mean() < 6, name
    image.save(tmp_path / "moving.gif", save_all=True, append_images=[clear.convert("RGB")])
    assert np.abs(read_any_picture(tmp_path / "moving.gif").astype(int) - gradient()).mean() < 6


def test_a_picture_is_turned_as_the_camera_was_held(image, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    image.save(tmp_path / "held.png", exif=exif)
    found = read_any_picture(tmp_path / "held.png")
    assert found.shape == (40, 30, 3)
    assert found[0].mean() < 20 < 230 < found[-1].mean()


def test_the_largest_jpegs_are_decoded_smaller(tmp_path, monkeypatch):
    Image.new("RGB", (640, 480), "red").save(tmp_path / "large.jpg")
    monkeypatch.setattr(pictures, "WORKING_PIXELS", 640 * 480 // 4)
    found, scale = read_with_scale(tmp_path / "large.jpg")
    assert found.shape == (240, 320, 3)
    assert scale == 2


def test_what_is_no_whole_picture_is_one_sentence(image, tmp_path, monkeypatch):
    image.save(tmp_path / "whole.jpg")
    whole = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("not a picture")
    said = {
        "cut.jpg": "expected a whole picture",
        "empty.jpg": "it is none of these",
        "text.jpg": "it is none of these",
        "none.jpg": "no such file",
    }
    for name, sentence in said.items():
        with pytest.raises(InputError, match=f"{name}: .*{sentence}"):
            read_any_picture(tmp_path / name)
    with pytest.raises(InputError, match="this is a folder"):
        read_any_picture(tmp_path)
    monkeypatch.setattr(pictures, "MOST_JPEG_PIXELS", 1000)
    with pytest.raises(InputError, match="it has 40 x 30 pixels, expected 1,000 at most"):
        read_any_picture(tmp_path / "whole.jpg")


def test_folders_are_looked_through_in_order(image, tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("b.PNG", "a.jpg", ".hidden.jpg", "notes.txt", "in/c.jpg"):
        image.save(tmp_path / name, format="PNG")
    names = [one.name for one in list_files((str(tmp_path),), pictures.PICTURES)]
    assert names == ["a.jpg", "b.PNG", "c.jpg"]
    with pytest.raises(InputError, match="no such file or folder"):
        list(list_files((str(tmp_path / "other"),), pictures.PICTURES))


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 30\n%%EndComments\nshowpage\n%%EOF\n"


def test_only_kinds_that_are_named_are_opened(tmp_path):
    """Pillow hands PostScript to Ghostscript, which runs it, whatever the file is called."""
    for name in ("holiday.png", "holiday.jpg", "holiday.webp"):
        (tmp_path / name).write_bytes(POSTSCRIPT)
        with pytest.raises(InputError, match=f"{name}: .*it is none of these"):
            read_any_picture(tmp_path / name)
        with pytest.raises(InputError):
            photographs((str(tmp_path),))[0]
    calls = re.compile(r"Image\.open\(")
    for path in Path(cmkg.__file__).parent.rglob("*.py"):
        for line in filter(calls.search, path.read_text().splitlines()):
            assert "formats=" in line, (path, line)


def progressive(scans):
    """A JPEG whose last scan stands many times: each is a pass over the whole picture."""
    held = io.BytesIO()
    Image.new("L", (64, 64)).save(held, "JPEG", progressive=True)
    data = held.getvalue()
    at = data.rindex(b"\xff\xda")
    return data[:at] + data[at:-2] * scans + data[-2:]


def test_pictures_that_would_take_minutes_or_gigabytes_are_a_sentence(tmp_path):
    webp = b"RIFF\x1a\0\0\0WEBPVP8X\x0a\0\0\0" + bytes(4) + b"\xff\x3f\0\xff\x3f\0" + bytes(4)
    long = io.BytesIO()
    Image.new("1", (40_000, 4)).save(long, "PNG")
    cases = {
        "scans.jpg": (progressive(3000), "is written in 3,0.. scans"),
        "wide.webp": (webp, "it has 16384 x 16384 pixels"),
        "long.png": (long.getvalue(), "it has 40000 x 4 pixels"),
    }
    for name, (data, sentence) in cases.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match=sentence):
            read_any_picture(tmp_path / name)
