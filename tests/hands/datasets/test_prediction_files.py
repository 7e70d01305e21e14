import json

import numpy as np
import pytest

from cmkg.errors import InputError
from cmkg.hands.datasets import prediction_files
from cmkg.hands.datasets.packed.pack import pack
from cmkg.hands.datasets.rhd import Rhd


@pytest.fixture(scope="module")
def packed(made_sets, tmp_path_factory):
    return pack(Rhd(str(made_sets["rhd"]), px=24), tmp_path_factory.mktemp("p") / "set", workers=1)


@pytest.mark.parametrize("name", ["p.json", "p.npz"])
def test_a_file_is_in_the_datasets_own_frame_and_comes_back(packed, made_sets, tmp_path, name):
    true = np.asarray(packed.joints_mm, float)
    theirs = prediction_files.to_dataset_frame(true, packed)
    # sample 0 is a right hand, 1 a left one
    for i, dataset in enumerate([Rhd(str(made_sets["rhd"]))] * 2):
        np.testing.assert_allclose(theirs[i], dataset.frame(i).joints_mm, atol=1e-3)
    prediction_files.write_predictions(tmp_path / name, theirs)
    np.testing.assert_allclose(
        prediction_files.from_dataset_frame(
            prediction_files.read_predictions(tmp_path / name, len(packed)), packed
        ),
        true,
        atol=1e-6,
    )
    if name == "p.json":
        xyz, vertices = json.loads((tmp_path / name).read_text())
        assert np.shape(xyz) == (8, 21, 3)
        assert np.shape(vertices) == (8, 778, 3)
        np.testing.assert_allclose(np.array(xyz)[1] * 1000, theirs[1])


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.json", "[[], []]", "field 'xyz' has 0 entries, the packed set 8 samples"),
        ("a.json", "{}", r"expected a list of two lists, \[xyz, vertices\]"),
        ("a.json", "[[1", "expected JSON"),
        (
            "a.json",
            json.dumps([[[[0, 0]] * 21] * 8, []]),
            r"field 'xyz', entry 0 has shape \(21, 2\), expected \(21, 3\)",
        ),
        (
            "a.json",
            json.dumps([[[[0, 0, "x"]] * 21] * 8, []]),
            "entry 0 holds something that is no number",
        ),
        ("a.npz", "junk", "expected predictions .\\.npz"),
        ("a.txt", "", "ends in .json"),
    ],
)
def test_bad_files_are_one_sentence(packed, tmp_path, name, content, sentence):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=sentence):
        prediction_files.read_predictions(tmp_path / name, len(packed))


@pytest.mark.parametrize(("name", "factor"), [("p.json", 1000.0), ("p.npz", 1e-3)])
def test_another_unit_is_refused_not_scored(packed, tmp_path, name, factor):
    theirs = prediction_files.to_dataset_frame(np.asarray(packed.joints_mm, float), packed)
    prediction_files.write_predictions(tmp_path / name, factor * theirs)
    with pytest.raises(InputError, match="holds "):
        prediction_files.read_predictions(tmp_path / name, len(packed))


def test_what_is_the_truths_is_said_in_the_file(packed, tmp_path):
    theirs = prediction_files.to_dataset_frame(np.asarray(packed.joints_mm, float), packed)
    for name in ("p.json", "p.npz"):
        prediction_files.write_predictions(tmp_path / name, theirs, "the wrist")
    assert (tmp_path / "p.json.txt").read_text() == "p.json: the wrist\n"
    assert str(np.load(tmp_path / "p.npz")["from_truth"]) == "the wrist"
