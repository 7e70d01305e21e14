import io
import pickle
import time
import zipfile
from collections import OrderedDict

import cv2
import numpy as np
import pytest
from PIL import Image

from cmkg.errors import InputError
from cmkg.hands.files.pickles import read_pickle
from cmkg.hands.files.reading import (
    as_numbers,
    expected_counts,
    read_depth,
    read_json_numbers,
    read_json_value,
    read_npz,
    read_photograph,
    read_picture,
    read_yaml,
)


@pytest.fixture
def picture(tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (6, 8, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), image[..., ::-1])
    return tmp_path / "a.png", image


def test_a_picture_is_rgb_of_the_size_that_is_expected(picture):
    path, image = picture
    np.testing.assert_array_equal(read_picture(path, (6, 8)), image)
    with pytest.raises(InputError, match=r"a\.png: expected 9 x 6 pixels, found 8 x 6"):
        read_picture(path, (6, 9))
    with pytest.raises(InputError, match="expected 8 bits and 1 channel"):
        read_picture(path, channels=1)
    np.testing.assert_array_equal(read_picture(path, channels=None), image[..., 2])


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda data: data[:-9], "its end is missing"),
        (lambda data: data[:-20] + b"\0" + data[-19:], "the checksum of its part"),
        (lambda _: b"", "it is empty"),
        (lambda _: b"GIF89a", "neither PNG nor JPEG"),
    ],
)
def test_a_damaged_picture_is_never_filled_with_grey(picture, damage, sentence):
    path, _ = picture
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=sentence):
        read_picture(path)


def test_numbers_have_their_shape_and_are_finite():
    assert as_numbers([[1, 2, 3]], (None, 3), "xyz").dtype == np.float64
    for value, sentence in [
        ([[1, 2]], r"xyz has shape \(1, 2\), expected \('N', 3\)"),
        ([["a", 1, 2]], "xyz holds something that is no number"),
        ([[1, np.nan, 3]], r"not finite at \(0, 1\)"),
    ]:
        with pytest.raises(InputError, match=sentence):
            as_numbers(value, (None, 3), "xyz")


def test_a_list_of_numbers_names_its_broken_entry(tmp_path):
    path = tmp_path / "xyz.json"
    path.write_text("[[1, 2], [3, 4]]")
    assert read_json_numbers(path, (2,)).tolist() == [[1, 2], [3, 4]]
    path.write_text("[[1, 2], [3]]")
    with pytest.raises(InputError, match=r"entry 1 has shape \(1,\), expected \(2,\)"):
        read_json_numbers(path, (2,))
    path.write_text("{}")
    with pytest.raises(InputError, match="expected a list with an entry a picture, found dict"):
        read_json_numbers(path, (2,))


def test_counts_are_the_genuine_ones_unless_data_was_made(tmp_path):
    assert expected_counts(tmp_path, training=41258) == {"training": 41258}
    (tmp_path / "made.json").write_text('{"training": 8}')
    assert expected_counts(tmp_path, training=41258) == {"training": 8}
    (tmp_path / "made.json").write_text('{"training": -1}')
    with pytest.raises(InputError, match="'training': expected a positive whole number"):
        expected_counts(tmp_path, training=41258)


# ---- what the world has --------------------------------------------------------------------------
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "16", "L"])
def test_a_photograph_of_any_kind_is_rgb_of_8_bits(tmp_path, mode):
    rng = np.random.default_rng(1)
    image = rng.choice(np.array([0, 60, 200], np.uint8), (6, 8, 3))
    path = tmp_path / "a.png"
    if mode == "16":
        cv2.imwrite(str(path), image[..., ::-1].astype(np.uint16) * 256 + 7)
    else:
        picture = Image.fromarray(image)
        picture.quantize(27).save(path) if mode == "P" else picture.convert(mode).save(path)
    found = read_photograph(path)
    expected = image
    if mode == "L":
        expected = np.repeat(np.array(Image.fromarray(image).convert("L"))[..., None], 3, 2)
    np.testing.assert_array_equal(found, expected)


def test_bytes_behind_a_jpeg_are_no_damage_and_a_preview_is_no_picture(tmp_path):
    image = np.random.default_rng(1).integers(0, 255, (40, 50, 3), np.uint8)
    plain, small = io.BytesIO(), io.BytesIO()
    Image.fromarray(image).save(plain, "JPEG")
    Image.fromarray(image[:8, :8]).save(small, "JPEG")
    data = plain.getvalue()
    path = tmp_path / "a.jpg"
    path.write_bytes(data)
    before = read_photograph(path)
    path.write_bytes(data + b"more of the camera's")
    np.testing.assert_array_equal(read_photograph(path), before)
    preview = b"\xff\xe2" + (len(small.getvalue()) + 2).to_bytes(2, "big") + small.getvalue()
    path.write_bytes(data[:2] + preview + data[2:-200])  # the preview is whole, the picture is not
    with pytest.raises(InputError, match="its end is missing"):
        read_photograph(path)


def test_depth_of_the_wrong_kind_is_refused(tmp_path):
    path = tmp_path / "d.png"
    cv2.imwrite(str(path), np.zeros((4, 5), np.uint8))
    with pytest.raises(InputError, match="one channel of 16 bits, found uint8 with 1"):
        read_depth(path)
    cv2.imwrite(str(path), np.full((4, 5), 300, np.uint16))
    assert (read_depth(path, 0.5) == 150).all()
    with pytest.raises(InputError, match="two bytes in red and green of 8 bits, found uint16"):
        read_depth(path, two_bytes="red-high")


def test_an_ordered_dict_of_an_old_pickle_is_a_dict(tmp_path):
    held = OrderedDict([(1, np.arange(3.0)), (0, "x")])
    (tmp_path / "a.pickle").write_bytes(pickle.dumps(held, protocol=2))
    found = read_pickle(tmp_path / "a.pickle", "labels")
    assert type(found) is dict
    assert list(found) == [1, 0]


HOSTILE_YAML = {
    "brackets": b"a: " + b"[" * 30_000,
    "flow maps": b"a: " + b"{a: " * 15_000,
    "indents": b"".join(b" " * n + b"a:\n" for n in range(300)),
    "dashes": b"- " * 30_000 + b"a",
    "a number of many digits": b"a: 0x" + b"f" * 6000,
    "aliases": b"a: &a [1]\nb: [*a, *a]\n",
    "too long": b"a: 1\n" * 20_000,
    "a key that stands twice": b"mano_sides: [left]\nmano_sides: [right]\n",
}


@pytest.mark.parametrize("name", list(HOSTILE_YAML))
def test_yaml_that_would_take_minutes_is_refused_before_it_is_read(tmp_path, name):
    path = tmp_path / "meta.yml"
    path.write_bytes(HOSTILE_YAML[name])
    began = time.monotonic()
    with pytest.raises(InputError, match=r"meta.yml"):
        read_yaml(path, "facts")
    assert time.monotonic() - began < 10  # the parser takes minutes


def test_a_field_that_stands_twice_is_refused(tmp_path):
    (tmp_path / "a.json").write_text('{"K": 1, "joints": 2, "K": 3}')
    with pytest.raises(InputError, match="the field 'K' stands twice"):
        read_json_value(tmp_path / "a.json", "labels")
    many = ", ".join(f'"k{number}": 0' for number in [*range(60_000), 59_999])
    (tmp_path / "a.json").write_text(f"{{{many}}}")
    with pytest.raises(InputError, match="the field 'k59999' stands twice"):
        read_json_value(tmp_path / "a.json", "labels")
    (tmp_path / "a.json").write_text("[" + "[]," * 20_000_000 + "[]]")
    with pytest.raises(InputError, match="parts, expected"):
        read_json_value(tmp_path / "a.json", "labels")


def test_arrays_are_as_large_as_their_headers_say(tmp_path):
    whole = io.BytesIO()
    np.save(whole, np.zeros((4, 4), np.float32))
    data = whole.getvalue()
    for held in (data.replace(b"(4, 4)", b"(9, 9)"), data[:-4], data + bytes(8)):
        (tmp_path / "a.npy").write_bytes(held)
        with pytest.raises(InputError, match="which are not its bytes"):
            read_depth(tmp_path / "a.npy")
    with open(tmp_path / "sparse.npy", "wb") as file:
        file.truncate(8 << 30)
    with pytest.raises(InputError, match="of at most"):
        read_depth(tmp_path / "sparse.npy")
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as held:
        held.writestr("a.npy", bytes(200 << 20))
    with pytest.raises(InputError, match="it unpacks to"):
        read_npz(tmp_path / "bomb.npz", "labels")
