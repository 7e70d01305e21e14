import numpy as np
import pytest
from PIL import Image

from cmkg.errors import InputError
from cmkg.hands.inference import pictures
from cmkg.hands.inference.pictures import list_files, read_photograph, read_with_scale

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
        found = read_photograph(tmp_path / name)
        assert found.shape == (30, 40, 3), name
        assert found.dtype == np.uint8
        assert np.abs(found.astype(int) - expected).mean() < 6, name
    image.save(tmp_path / "moving.gif", save_all=True, append_images=[clear.convert("RGB")])
    assert np.abs(read_photograph(tmp_path / "moving.gif").astype(int) - gradient()).mean() < 6


def test_a_picture_is_turned_as_the_camera_was_held(image, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    image.save(tmp_path / "held.png", exif=exif)
    found = read_photograph(tmp_path / "held.png")
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
            read_photograph(tmp_path / name)
    with pytest.raises(InputError, match="this is a folder"):
        read_photograph(tmp_path)
    monkeypatch.setattr(pictures, "MOST_PIXELS", 1000)
    with pytest.raises(InputError, match="has 40 x 30 pixels, expected 1,000 at most"):
        read_photograph(tmp_path / "whole.jpg")


def test_folders_are_looked_through_in_order(image, tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("b.PNG", "a.jpg", ".hidden.jpg", "notes.txt", "in/c.jpg"):
        image.save(tmp_path / name, format="PNG")
    names = [one.name for one in list_files((str(tmp_path),), pictures.PICTURES)]
    assert names == ["a.jpg", "b.PNG", "c.jpg"]
    with pytest.raises(InputError, match="no such file or folder"):
        list(list_files((str(tmp_path / "other"),), pictures.PICTURES))
