import cv2
import numpy as np
import pytest

from cmkg.errors import InputError
from cmkg.hands.rendering import backgrounds
from cmkg.hands.rendering.backgrounds import OWN, background, digest_of_photographs, photographs
from cmkg.hands.rendering.scenes import SceneConfig
from cmkg.hands.synthesis.rendered import Rendered


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
    theirs = Rendered(SceneConfig(px=16, backgrounds=(str(tmp_path),)), 2).describe()
    ours = Rendered(SceneConfig(px=16), 2).describe()
    assert theirs["photographs"] != ours["photographs"] == digest_of_photographs()
    photographs.cache_clear()
    cv2.imwrite(str(tmp_path / "wall.png"), np.full((40, 40, 3), 91, np.uint8))
    changed = Rendered(SceneConfig(px=16, backgrounds=(str(tmp_path),)), 2).describe()
    assert changed["photographs"] != theirs["photographs"]


def test_no_photographs_and_broken_ones_are_a_sentence(tmp_path):
    with pytest.raises(InputError, match="expected photographs .*found none"):
        photographs((str(tmp_path),))
    (tmp_path / "x.jpg").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"x\.jpg: expected a photograph"):
        digest_of_photographs((str(tmp_path),))


def test_photographs_of_several_folders_are_read_when_they_are_drawn(tmp_path, monkeypatch):
    for folder, level in (("a", 40), ("b/below", 200)):
        (tmp_path / folder).mkdir(parents=True)
        for number in range(3):
            picture = np.full((30, 40, 3), level + number, np.uint8)
            cv2.imwrite(str(tmp_path / folder / f"{number}.png"), picture)
    read = []
    decode = backgrounds._decode
    monkeypatch.setattr(backgrounds, "_decode", lambda path: read.append(path) or decode(path))
    pictures = photographs((str(tmp_path / "a"), str(tmp_path / "b")))
    assert (len(pictures), read) == (6, [])
    levels = {
        int(background(np.random.default_rng(seed), pictures, 16, mixed=False).mean())
        for seed in range(40)
    }
    assert levels == {40, 41, 42, 200, 201, 202}
    assert len(read) == 6  # each once: the last ones are kept
    scene = SceneConfig(px=16, backgrounds=(str(tmp_path / "a"),), photographs_only=True)
    corner = Rendered(scene, 1).samples([0])[0].rgb[0, 0].astype(float)
    assert np.ptp(corner) < 25  # grey, but for the camera's noise
