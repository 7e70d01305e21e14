import json

import numpy as np
import pytest

from cmkg.errors import InputError
from cmkg.hands.datasets import freihand
from cmkg.hands.datasets.freihand import FreiHand
from tests.hands.copies import clear


def test_freihand_numbers_and_splits(copies):
    assert freihand.COUNTS == {"training": 32560, "paper_train": 30000, "evaluation": 3960}
    root = copies("freihand")
    (root / "made.json").unlink()
    for domain, version in (("gs", 0), ("hom", 1), ("sample", 2), ("auto", 3)):
        assert FreiHand(str(root), "train", domain).number(7) == 7 + 32560 * version
        assert FreiHand(str(root), "test", domain).number(0) == 30000 + 32560 * version
    assert len(FreiHand(str(root), "train")) == 30000
    assert len(FreiHand(str(root), "test")) == 2560
    assert len(FreiHand(str(root), "evaluation")) == 3960
    assert FreiHand(str(root), "evaluation", "auto").number(5) == 5
    assert FreiHand(str(root), "test", "hom").path("rgb", 0).name == "00062560.jpg"
    with pytest.raises(InputError, match="holds 10 entries, expected 32560"):
        FreiHand(str(root)).frame(0)


def test_freihand_is_in_metres_and_in_our_order(copies):
    root = copies("freihand")
    xyz = json.loads((root / "training_xyz.json").read_text())
    np.testing.assert_allclose(FreiHand(str(root)).frame(3).joints_mm, 1000 * np.array(xyz[3]))
    assert not FreiHand(str(root)).frame(3).left


def test_freihand_masks_exist_for_the_green_screen_only(made_sets):
    root = str(made_sets["freihand"])
    assert FreiHand(root).mask(0).shape == (224, 224)
    assert len(FreiHand(root, domain="gs").item_checks(0)) == 3
    assert len(FreiHand(root, domain="hom").item_checks(0)) == 2


def test_freihand_evaluation_needs_its_later_labels(copies):
    root = copies("freihand")
    (root / "evaluation_xyz.json").unlink()
    clear()
    with pytest.raises(InputError, match="evaluation_xyz.json: no such file.*released later"):
        FreiHand(str(root), "evaluation").samples([0])
