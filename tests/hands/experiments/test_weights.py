import json

import pytest
from PIL import Image

from cmkg import Hand
from cmkg.errors import InputError
from cmkg.hands.experiments import weights
from cmkg.hands.files.exports import LANDMARKS_FILE, PALMS_FILE
from cmkg.hands.inference.hand import OWN
from tests.hands.photographs import left_hand, right_hand
from tests.hands.runs import settings


@pytest.mark.long
def test_the_network_that_comes_with_cmkg_in_its_smallest_form(tmp_path):
    (tmp_path / "photographs").mkdir()
    for name, picture in (("a", right_hand()), ("b", left_hand())):
        Image.fromarray(picture).save(tmp_path / "photographs" / f"{name}.png")
    config = settings(
        weights.SETTINGS,
        landmarks=str(OWN / LANDMARKS_FILE),
        palms=str(OWN / PALMS_FILE),
        photographs=(str(tmp_path / "photographs"),),
        out=str(tmp_path / "w"),
        count=4,
        steps=2,
        batch=4,
    )
    weights.run(config)
    held = json.loads((tmp_path / "w/result.json").read_text())
    assert held["photographs"] == 2
    assert set(held["taught"]) == set(held["untouched"]) == {"rendered", "photographs"}
    assert all(set(one) == {"mm", "procrustes_mm", "px"} for one in held["taught"].values())
    assert 20 < Hand.from_pretrained(tmp_path / "w/hand").bone_mm < 45
    with pytest.raises(InputError, match="--landmarks: expected its files"):
        weights.run(weights.SETTINGS)
