import json

import pytest
from scipy.io import loadmat

from cmkg.errors import InputError
from cmkg.hands.commands import data_make


def test_made_data_is_marked_and_never_overwritten(made_sets):
    assert json.loads((made_sets["rhd"] / "made.json").read_text()) == {
        "dataset": "rhd",
        "seed": 0,
        "training": 8,
        "evaluation": 2,
    }
    with pytest.raises(InputError, match="holds something else"):
        data_make.run(data_make.MakeSynthetic("rhd", str(made_sets["rhd"]), 9))
    assert loadmat(made_sets["stb"] / "labels/B6Random_SK.mat")["handPara"].shape == (3, 21, 1)
