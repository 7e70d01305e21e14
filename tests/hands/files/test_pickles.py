import os
import pickle

import numpy as np
import pytest

from cmkg.errors import InputError
from cmkg.hands.files.pickles import read_pickle


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0).reshape(2, 3),
        np.asfortranarray(np.arange(6).reshape(2, 3)),
        np.arange(4, dtype=">i2"),
        np.array([True, False]),
        np.float32(1.5),
    ],
)
def test_plain_arrays_come_back(tmp_path, array, protocol):
    (tmp_path / "a.pickle").write_bytes(pickle.dumps({"x": [array, 3]}, protocol))
    found = read_pickle(tmp_path / "a.pickle", "an annotation")["x"]
    np.testing.assert_array_equal(found[0], array)
    assert found[1] == 3


class Runs:
    def __reduce__(self):
        return os.mkdir, ("ran",)


class Codec:
    def __reduce__(self):
        import codecs

        return codecs.encode, ("text", "rot13")


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (Runs(), r"refused: this pickle asks for \w+\.mkdir"),
        ({"deep": [Runs()]}, "refused: this pickle asks for"),
        (np.array([Runs()], object), "refused: this pickle asks for"),
        (np.array(["text"]), "refused: this pickle holds an array of"),
        (Codec(), "refused: this pickle asks for a codec other than latin1"),
        (print, "refused: this pickle asks for"),
    ],
)
def test_what_could_run_is_refused_by_name(tmp_path, monkeypatch, value, sentence):
    monkeypatch.chdir(tmp_path)
    for protocol in (0, 2, 4):
        (tmp_path / "a.pickle").write_bytes(pickle.dumps(value, protocol))
        with pytest.raises(InputError, match=sentence):
            read_pickle("a.pickle", "an annotation")
    assert not (tmp_path / "ran").exists()


DATA = np.arange(100_000, dtype=np.uint8).tobytes()


class Named:
    """The same bytes as an array once more: some twenty bytes of the file."""

    def __reduce__(self):
        from numpy._core.numeric import _frombuffer

        return _frombuffer, (DATA, np.dtype("u1"), (len(DATA),), "C")


def test_few_bytes_do_not_become_many_arrays(tmp_path):
    (one,) = read_pickle(write(tmp_path, pickle.dumps([Named()], 4)), "labels")
    assert one.tobytes() == DATA
    with pytest.raises(InputError, match="names the bytes of its arrays more often"):
        read_pickle(write(tmp_path, pickle.dumps([Named() for _ in range(50)], 4)), "labels")


def write(folder, data):
    (folder / "a.pickle").write_bytes(data)
    return folder / "a.pickle"


@pytest.mark.parametrize("data", [b"", b"hello", b"\x80\x04."])
def test_a_broken_pickle_is_a_sentence(tmp_path, data):
    (tmp_path / "a.pickle").write_bytes(data)
    with pytest.raises(
        InputError, match=r"a\.pickle: expected an annotation, the pickle is broken"
    ):
        read_pickle(tmp_path / "a.pickle", "an annotation")
