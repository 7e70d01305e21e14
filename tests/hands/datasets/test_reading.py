import cv2
import numpy as np
import pytest

from cmkg.errors import InputError
from cmkg.hands.datasets.reading import (
    as_numbers,
    expected_counts,
    read_json_numbers,
    read_picture,
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
