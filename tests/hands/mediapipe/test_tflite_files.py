from contextlib import suppress

import numpy as np
import pytest

from cmkg.errors import InputError
from cmkg.hands.files.exports import LANDMARKS_FILE, PALMS_FILE
from cmkg.hands.inference.hand import OWN
from cmkg.hands.mediapipe.tflite_files import FLOAT16, TfliteFile, _Table, expect_same_graph

DATA = {name: (OWN / name).read_bytes() for name in (LANDMARKS_FILE, PALMS_FILE)}


@pytest.fixture(scope="module")
def file():
    return TfliteFile(DATA[LANDMARKS_FILE])


def test_the_same_weights_give_the_same_file(file):
    assert file.with_weights(file.weights()) == file.data
    assert file.with_weights({}) == file.data
    names = [operator.name for operator in file.operators if operator.weights]
    assert len(names) == len(set(names))
    assert {"screen", "presence", "handedness", "world", "conv_1", "depthwise_1"} <= set(names)


def test_only_the_weights_that_are_given_change(file):
    weights = file.weights()
    changed = np.frombuffer(file.with_weights({"world.bias": weights["world.bias"] + 1}), np.uint8)
    places = np.flatnonzero(changed != np.frombuffer(file.data, np.uint8))
    constant = file.constants["world.bias"]
    assert constant.offset <= places.min()
    assert places.max() < constant.offset + 63 * constant.dtype.itemsize
    again = TfliteFile(changed.tobytes()).weights()
    np.testing.assert_allclose(again["world.bias"], weights["world.bias"] + 1, atol=1e-3)
    np.testing.assert_array_equal(again["world.weight"], weights["world.weight"])


def test_numbers_that_the_file_cannot_hold_are_refused(file):
    bias = file.weights()["world.bias"]
    for given, sentence in (
        ({"world.bias": bias * 1e9}, "does not hold; has the training diverged"),
        ({"world.bias": bias * np.nan}, "does not hold"),
        ({"world.bias": bias[:3]}, r"the file has \(63,\)"),
        ({"nothing.bias": bias}, "no such layer"),
    ):
        with pytest.raises(InputError, match=sentence):
            file.with_weights(given)
    palms = TfliteFile(DATA[PALMS_FILE])
    by_place: dict[int, list[str]] = {}
    for name, constant in palms.constants.items():
        by_place.setdefault(constant.offset, []).append(name)
    one, other = next(names for names in by_place.values() if len(names) > 1)[:2]
    values = palms.weights()[one]
    with pytest.raises(InputError, match="are one constant of the file"):
        palms.with_weights({one: values, other: values + 1})


@pytest.mark.parametrize("name", list(DATA))
def test_a_damaged_file_is_one_sentence(name):
    """Cut anywhere, and with bytes changed anywhere in its structure: read, or refused."""
    data, rng = DATA[name], np.random.default_rng(0)
    for end in (0, 3, 7, 8, 100, len(data) // 2, len(data) - 5):
        _read_or_refuse(data[:end])
    structure = [*range(0, 4000), *range(len(data) - 60_000, len(data))]
    for _ in range(150):
        changed = bytearray(data)
        for place in rng.choice(structure, 4):
            changed[place] = rng.integers(256)
        _read_or_refuse(bytes(changed))


def test_quantised_files_and_other_operators_are_named():
    data = DATA[LANDMARKS_FILE]
    model = _Table(data, int.from_bytes(data[:4], "little"))
    half = model.tables(2)[0].tables(0)
    places = [one.place(1) for one in half if one.place(1) and data[one.place(1)] == FLOAT16]
    quantised = bytearray(data)
    quantised[places[3]] = 9
    with pytest.raises(InputError, match="a.tflite: is quantised .*int8"):
        TfliteFile(bytes(quantised), "a.tflite")
    other = bytearray(data)
    code = model.tables(1)[0]
    for slot in (0, 3):
        if code.place(slot):
            other[code.place(slot)] = 99
    with pytest.raises(InputError, match=r"a.tflite: has an operator \(number 99\)"):
        TfliteFile(bytes(other), "a.tflite")


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    with open(tmp_path / "large.tflite", "wb") as file:
        file.truncate(200 << 20)
    with pytest.raises(InputError, match="of at most 67,108,864 bytes"):
        TfliteFile.open(tmp_path / "large.tflite")


def _read_or_refuse(data):
    with suppress(InputError):  # and nothing else
        file = TfliteFile(data)
        file.described()
        file.weights()


def test_another_network_is_told_where_it_differs(file):
    with pytest.raises(InputError, match="its input is .* expected 'input"):
        expect_same_graph(TfliteFile(DATA[PALMS_FILE], "palms"), file)
    expect_same_graph(TfliteFile(DATA[LANDMARKS_FILE], "own"), file)
    with pytest.raises(InputError, match="first bytes are no such file's"):
        TfliteFile(b"PK\x03\x04 and more", "a.tflite")
