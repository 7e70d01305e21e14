import cv2
import numpy as np
import pytest

from cmkg.errors import InputError
from cmkg.hands.datasets.rendered import Rendered
from cmkg.hands.rendering.backgrounds import (
    OWN,
    background,
    digest_of_photographs,
    photographs,
)
from cmkg.hands.rendering.scenes import SceneConfig


def test_the_photographs_that_ship_are_known_and_named_with_their_source():
    sources = (OWN / "SOURCES.txt").read_text()
    files = sorted(OWN.glob("*.webp"))
    assert len(photographs()) == len(files) == 8
    assert all(file.name in sources for file in files)
    # Another decoder or another file would draw other pictures for the same (seed, index).
    assert digest_of_photographs() == "537ae1717aafc76f"


def test_a_background_depends_on_its_stream_alone():
    drawn = [background(np.random.default_rng(3), photographs(), 48) for _ in range(2)]
    np.testing.assert_array_equal(*drawn)
    assert drawn[0].shape == (48, 48, 3)
    assert drawn[0].std() > 1


def test_other_photographs_are_another_set(tmp_path):
    cv2.imwrite(str(tmp_path / "wall.png"), np.full((40, 40, 3), 90, np.uint8))
    theirs = Rendered(SceneConfig(px=16, backgrounds=str(tmp_path)), 2).describe()
    ours = Rendered(SceneConfig(px=16), 2).describe()
    assert theirs["photographs"] != ours["photographs"] == digest_of_photographs()
    photographs.cache_clear()
    cv2.imwrite(str(tmp_path / "wall.png"), np.full((40, 40, 3), 91, np.uint8))
    changed = Rendered(SceneConfig(px=16, backgrounds=str(tmp_path)), 2).describe()
    assert changed["photographs"] != theirs["photographs"]


def test_no_photographs_and_broken_ones_are_a_sentence(tmp_path):
    with pytest.raises(InputError, match="expected photographs .*found none"):
        photographs(str(tmp_path))
    (tmp_path / "x.jpg").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"x\.jpg: expected a photograph"):
        photographs(str(tmp_path))
