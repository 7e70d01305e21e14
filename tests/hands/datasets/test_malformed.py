import json
import pickle

import cv2
import numpy as np
import pytest
from scipy.io import savemat

from cmkg.errors import InputError
from cmkg.hands.datasets.freihand import FreiHand
from cmkg.hands.datasets.packed import pack
from cmkg.hands.datasets.rhd import Rhd
from cmkg.hands.datasets.stb import Stb
from tests.hands.copies import clear

CASES = 240


def cut(path, rng):
    data = path.read_bytes()
    path.write_bytes(data[: int(rng.integers(0, len(data) - 12))])


def junk(path, rng):
    path.write_bytes(rng.integers(0, 256, int(rng.integers(0, 400)), np.uint8).tobytes())


def flip(path, rng):
    """A byte in the middle: a PNG's checksum must see it."""
    data = bytearray(path.read_bytes())
    data[int(rng.integers(60, len(data) - 20))] ^= int(rng.integers(1, 256))
    path.write_bytes(bytes(data))


def remove(path, rng):
    path.unlink()


def folder_instead(path, rng):
    path.unlink()
    path.mkdir()


def picture_of(shape, dtype=np.uint8):
    def write(path, rng):
        cv2.imwrite(str(path), rng.integers(0, 255, shape).astype(dtype))

    return write


PICTURES = [cut, junk, remove, folder_instead, picture_of((10, 10, 3)), picture_of((700, 20, 3))]


PNGS = [
    flip,
    picture_of((320, 320, 4)),
    picture_of((320, 320, 3), np.uint16),
    picture_of((321, 320, 3)),
]


FILES = [cut, junk, remove, folder_instead]


BAD_VALUES = [np.nan, np.inf, -np.inf, "text", None, [], {}, [[1]], 1j, b"x", 10**400, object]


def bad(rng):
    return BAD_VALUES[int(rng.integers(len(BAD_VALUES)))]


def rhd_label(path, rng):
    """One of RHD's annotations is wrong in one of many ways."""
    labels = pickle.loads(path.read_bytes())
    entry, field = labels[int(rng.integers(8))], str(rng.choice(["uv_vis", "xyz", "K"]))
    how = int(rng.integers(8))
    if how == 0:
        del entry[field]
    elif how == 1:
        entry[field] = np.zeros(tuple(rng.integers(0, 5, int(rng.integers(1, 4)))))
    elif how == 2:
        entry[field] = bad(rng) if rng.random() < 0.5 else np.array([[bad(rng)]], object)
    elif how == 3:
        entry[field][int(rng.integers(len(entry[field]))), 0] = rng.choice([np.nan, np.inf])
    elif how == 4:
        labels[3] = [list(labels.values()), "text", None][int(rng.integers(3))]
    elif how == 5:
        entry["xyz"][:, 2] -= 5
    elif how == 6:
        labels = [
            {**labels, 99: entry},
            {k: v for k, v in labels.items() if k},
            list(labels.values()),
            None,
            {str(k) + "a": v for k, v in labels.items()},
        ][int(rng.integers(5))]
    else:
        entry["K"] = entry["K"] * rng.choice([0, -1, 1000])
    path.write_bytes(
        pickle.dumps(labels if not callable(labels) else None, protocol=int(rng.integers(0, 6)))
    )


class Evil:
    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def evil_pickle(path, rng):
    import os
    import subprocess

    marker = path.with_name("ran")
    call = [
        (os.system, f"touch {marker}"),
        (eval, f"open({str(marker)!r}, 'w')"),
        (exec, f"open({str(marker)!r}, 'w')"),
        (subprocess.getoutput, f"touch {marker}"),
        (__import__, "os"),
        (getattr, dict, "clear"),
        (np.load, str(marker)),
        (print, "x"),
    ][int(rng.integers(8))]
    labels = pickle.loads(path.read_bytes())
    path.write_bytes(
        pickle.dumps(
            {**labels, 0: Evil(*call)} if rng.random() < 0.5 else Evil(*call),
            protocol=int(rng.integers(0, 6)),
        )
    )


def stb_label(path, rng):
    joints = np.tile(np.array([[0.0], [0.0], [500.0]])[:, None], (1, 21, 1)) + rng.normal(
        0, 30, (3, 21, 1)
    )
    how = int(rng.integers(8))
    held = {"handPara": joints}
    if how == 0:
        held = {"handpara": joints}
    elif how == 1:
        held["handPara"] = joints.reshape([(21, 3, 1), (63, 1), (1, 3, 21)][int(rng.integers(3))])
    elif how == 2:
        held["handPara"] = np.concatenate([joints] * int(rng.integers(2, 5)), 2)
    elif how == 3:
        held["handPara"][int(rng.integers(3)), int(rng.integers(21)), 0] = rng.choice(
            [np.nan, np.inf, -np.inf]
        )
    elif how == 4:
        held["handPara"][2] *= -1
    elif how == 5:
        held["handPara"] = np.array([["text", "more"]], object)
    elif how == 6:
        held["handPara"][0] += 1e5
    else:
        held["handPara"] = joints * rng.choice([0.001, 50.0])  # metres, or who knows what
    savemat(path, held)


def json_label(path, rng):
    value = json.loads(path.read_text())
    entry = int(rng.integers(8))
    how = int(rng.integers(8))
    if how == 0:
        value = {"a": value} if rng.random() < 0.5 else value[:-1]
    elif how == 1:
        value[entry] = [[1.0, 2.0]] * 3
    elif how == 2:
        value[entry] = [None, "text", {}, [], [[["deep"]]]][int(rng.integers(5))]
    elif how == 3:
        value[entry][int(rng.integers(3))][0] = [float("nan"), float("inf"), None, "1.0", [2]][
            int(rng.integers(5))
        ]
    elif how == 4:
        value[entry] = (-np.array(value[entry])).tolist()
    elif how == 5:
        path.write_text("[" * 100_000)
        return
    elif how == 6:
        value[entry] = (np.array(value[entry]) * 0).tolist()
    else:
        value = [*value, value[0]]
    path.write_text(json.dumps(value))


def fail_to_pack(dataset, out):
    """The sentence; asserts that nothing of the pack is there."""
    with pytest.raises(InputError) as caught:
        pack(dataset, out, workers=1)
    assert not out.exists()
    return str(caught.value)


def malformations(root, make, targets, out):
    """Damages one file at a time in CASES ways; every one must be told in one sentence that
    names the file."""
    sentences = set()
    for case in range(CASES):
        rng = np.random.default_rng(case)
        pattern, damages = targets[case % len(targets)]
        path = sorted(root.glob(pattern))[int(rng.integers(len(sorted(root.glob(pattern)))))]
        damage, original = damages[int(rng.integers(len(damages)))], path.read_bytes()
        clear()
        damage(path, rng)
        try:
            said = fail_to_pack(make(), out)
            assert path.name in said or path.parent.name in said or path.stem in said, (
                case,
                damage.__name__,
                said,
            )
            assert "\n" not in said, said
            assert len(said) < 700, said
            sentences.add(said.split(":")[-1])
        except pytest.fail.Exception as error:
            raise AssertionError(
                f"case {case}: {damage.__name__} of {path} was not noticed"
            ) from error
        finally:
            if path.is_dir():
                path.rmdir()
            path.write_bytes(original)
            clear()
    assert len(sentences) > 15  # many different things were said
    assert len(pack(make(), out, workers=1)) > 0  # and the data, mended, pack


@pytest.fixture
def own(made_sets, tmp_path):
    import shutil

    return lambda name: shutil.copytree(made_sets[name], tmp_path / name)


def test_rhd(own, tmp_path):
    root = own("rhd")
    targets = [
        ("training/color/*.png", PICTURES + [flip, picture_of((321, 320, 3))]),
        ("training/depth/*.png", PICTURES + PNGS),
        ("training/mask/*.png", PICTURES + PNGS),
        ("training/anno_training.pickle", FILES),
        *[("training/anno_training.pickle", [rhd_label])] * 3,
        ("training/anno_training.pickle", [evil_pickle]),
    ]
    malformations(root, lambda: Rhd(str(root), px=24), targets, tmp_path / "out")
    labels = pickle.loads((root / "training/anno_training.pickle").read_bytes())
    for protocol in (2, 5):
        # an array of pointers
        held = labels | {0: labels[0] | {"K": np.array([["a"] * 3] * 3, object)}}
        (root / "training/anno_training.pickle").write_bytes(pickle.dumps(held, protocol))
        clear()
        assert "refused: this pickle holds an array of 'O8'" in fail_to_pack(
            Rhd(str(root), px=24), tmp_path / "other"
        )
    assert not (root / "training/ran").exists()  # no pickle ever ran anything


def test_stb(own, tmp_path):
    root = own("stb")
    targets = [
        ("images/B1*/BB_left_*.png", PICTURES + [flip]),
        ("labels/B1*_BB.mat", FILES),
        *[("labels/B1*_BB.mat", [stb_label])] * 2,
    ]
    malformations(root, lambda: Stb(str(root), "test", px=24), targets, tmp_path / "out")


def test_freihand(own, tmp_path):
    root = own("freihand")
    targets = [
        ("training/rgb/0000000[0-7].jpg", PICTURES),
        ("training_K.json", FILES),
        ("training_xyz.json", FILES),
        *[("training_[Kx]*.json", [json_label])] * 3,
    ]
    malformations(root, lambda: FreiHand(str(root), px=24), targets, tmp_path / "out")
