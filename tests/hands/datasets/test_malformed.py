import json
import pickle

import cv2
import numpy as np
import pytest
from scipy.io import savemat

from cmkg.errors import InputError
from cmkg.hands.datasets.dexycb import DexYcb
from cmkg.hands.datasets.folder import Folder
from cmkg.hands.datasets.freihand import FreiHand
from cmkg.hands.datasets.ho3d import Ho3d
from cmkg.hands.datasets.interhand import KINDS, InterHand
from cmkg.hands.datasets.packed.pack import pack
from cmkg.hands.datasets.rhd import Rhd
from cmkg.hands.datasets.stb import Stb
from cmkg.hands.datasets.subset import Subset
from cmkg.hands.synthesis.synthetic import make_dataset
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


def fail_to_pack(make, out):
    """The sentence of opening a dataset and packing it; nothing of the pack is there."""
    with pytest.raises(InputError) as caught:
        pack(make(), out, workers=1)
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
            said = fail_to_pack(make, out)
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


@pytest.mark.long
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
            lambda: Rhd(str(root), px=24), tmp_path / "other"
        )
    assert not (root / "training/ran").exists()  # no pickle ever ran anything


@pytest.mark.long
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


# ---- a folder of recordings, and the real sets of today ------------------------------------------
def edited_json(change):
    """A damage to a JSON file: `change` gets what it holds and a random generator."""

    def write(path, rng):
        held = json.loads(path.read_text())
        held = change(held, rng) or held
        path.write_text(json.dumps(held, default=str))

    write.__name__ = change.__name__
    return write


JSON_VALUES = ["text", None, [], {}, [[1]], -1, 0, 1e400, True, [1, 2], "", [[None] * 3] * 21]


def any_value(rng):
    return JSON_VALUES[int(rng.integers(len(JSON_VALUES)))]


def record_field(held, rng):
    """A field of a record is missing, misnamed or something else."""
    record = held["samples"][int(rng.integers(len(held["samples"])))]
    field = str(rng.choice(["image", "K", "side", "joints_mm", "depth"]))
    how = int(rng.integers(4))
    if how == 0 and field in ("image", "K", "side"):
        del record[field]
    elif how == 1:
        record[field + "s"] = record.pop(field)
    else:
        wrong = any_value(rng)
        while field == "joints_mm" and wrong is None:  # no label is no mistake
            wrong = any_value(rng)
        record[field] = wrong


def record_numbers(held, rng):
    """Numbers of a record are not a hand's or a camera's."""
    record = held["samples"][int(rng.integers(len(held["samples"])))]
    joints = np.array(record["joints_mm"])
    how = int(rng.integers(8))
    if how == 0:
        joints[int(rng.integers(21))] = rng.choice([np.nan, np.inf])
    elif how == 1:
        joints[:, 2] -= 5000
    elif how == 2:
        joints /= 1000
    elif how == 3:
        joints *= 50
    elif how == 4:
        joints = joints[: int(rng.integers(0, 21))]
    elif how == 5:
        record["K"] = [[float(rng.choice([0, -1])) * 300, 0, 100], [0, 300, 100], [0, 0, 1]]
    elif how == 6:
        record["joints_m"] = joints.tolist()
    else:
        record["visible"] = [1] * int(rng.integers(0, 20))
    record["joints_mm"] = joints.tolist()


def shared_field(held, rng):
    """What stands beside the records is wrong."""
    how = int(rng.integers(7))
    if how == 0:
        del held["depth_unit_mm"]
    elif how == 1:
        held["depth_unit_mm"] = [-1, 0, "mm", None, [1]][int(rng.integers(5))]
    elif how == 2:
        held["depth_two_bytes"] = ["red", 1, [], "red-high"][int(rng.integers(4))]
    elif how == 3:
        held["samples"] = [[], {}, None, "x", [1]][int(rng.integers(5))]
    elif how == 4:
        held["order"] = ["wrist"] * 21
    elif how == 5:
        held["person"] = 1
        held["samples"][0]["person"] = 2
        held["samples"][1]["split"] = "other"
        held["samples"][0]["split"] = "train"
    else:
        return [any_value(rng)]
    return held


@pytest.mark.long
def test_folder(own, tmp_path):
    root = own("folder")
    held = json.loads((root / "joints.json").read_text())
    held["samples"] = [record for record in held["samples"] if "joints_mm" in record]
    (root / "joints.json").write_text(json.dumps(held))
    assert len(held["samples"]) > 2
    names = {
        record[kind].split("/")[1] for record in held["samples"] for kind in ("image", "depth")
    }
    for path in (*root.glob("rgb/*"), *root.glob("depth/*")):
        if path.name not in names:
            path.unlink()
    depths = [picture_of((240, 320), np.uint8), picture_of((100, 320), np.uint16)]
    targets = [
        ("rgb/*.jpg", FILES),
        ("depth/*.png", [*FILES, *depths, picture_of((240, 320, 3))]),
        ("joints.json", FILES),
        *[("joints.json", [edited_json(record_field)])] * 3,
        *[("joints.json", [edited_json(record_numbers)])] * 2,
        ("joints.json", [edited_json(shared_field)]),
    ]
    malformations(root, lambda: Folder(str(root), "all", 24), targets, tmp_path / "out")


def npz_label(path, rng):
    """A field of DexYCB's labels is wrong."""
    with np.load(path) as file:
        held = dict(file)
    how = int(rng.integers(6))
    if how == 0:
        del held["joint_3d"]
    elif how == 1:
        held["joint_3d"] = held["joint_3d"][0]
    elif how == 2:
        held["joint_3d"][0, int(rng.integers(21))] = np.nan
    elif how == 3:
        held["joint_3d"] = held["joint_3d"] * rng.choice([1000, 0.001, -1])
    elif how == 4:
        held["joint_3d"] = np.array([["a"] * 21])
    else:
        held["joint_3d"] = np.array([None, {}], object)
    np.savez(path, **held)


def other_text(*texts):
    def write(path, rng):
        path.write_text(texts[int(rng.integers(len(texts)))])

    return write


META = other_text(
    "", "a: [", "num_frames: x", "num_frames: -1", "num_frames: 2", "- 1", "mano_sides: [up]",
    "num_frames: 2\nmano_sides: [both]", "!!python/object/apply:os.system ['true']",
)  # fmt: skip
CAMERA = other_text(
    "", "color: 3", "color: {fx: 1}", "color: {fx: a, fy: 1, ppx: 1, ppy: 1}", "- - -",
    "color: {fx: -600, fy: 600, ppx: 320, ppy: 240}", "color: {fx: .nan, fy: 1, ppx: 1, ppy: 1}",
)  # fmt: skip


@pytest.mark.long
def test_dexycb(tmp_path):
    root = tmp_path / "dexycb"
    make_dataset("dexycb", root, 8)
    one = "*-subject-00/*_000000"
    targets = [
        (f"{one}/836212060125/color_000001.jpg", FILES),
        (f"{one}/836212060125/aligned*_000001.png", [*FILES, picture_of((480, 640))]),
        (f"{one}/836212060125/labels_000001.npz", [cut, junk, folder_instead, npz_label]),
        *[(f"{one}/836212060125/labels_000001.npz", [npz_label])] * 3,
        (f"{one}/meta.yml", [*FILES, META]),
        ("calibration/intrinsics/836212060125*", [*FILES, CAMERA]),
    ]

    def first():
        return Subset(DexYcb.of(str(root), "s0-train", 24), (0,), "the first")

    malformations(root, first, targets, tmp_path / "out")


def pickled(path, rng):
    """HO-3D's annotation of a frame is wrong."""
    held = pickle.loads(path.read_bytes())
    how = int(rng.integers(7))
    if how == 0:
        del held["camMat"]
    elif how == 1:
        held["handJoints3D"] = held["handJoints3D"][:20]
    elif how == 2:
        held["handJoints3D"] = bad(rng)
        if held["handJoints3D"] is None:
            held["handJoints3D"] = "none"
    elif how == 3:
        held["handJoints3D"] = held["handJoints3D"] * rng.choice([-1, 1000, 0.01])
    elif how == 4:
        held["camMat"] = np.eye(2)
    elif how == 5:
        held = [[held], "text", None][int(rng.integers(3))]
    else:
        held["camMat"] = held["camMat"] * -1
    path.write_bytes(pickle.dumps(held, protocol=2))


def evil(path, rng):
    import os

    path.write_bytes(pickle.dumps(Evil(os.system, f"touch {path.with_name('ran')}"), protocol=2))


@pytest.mark.long
def test_ho3d(tmp_path):
    root = tmp_path / "ho3d"
    make_dataset("ho3d", root, 4)
    targets = [
        ("train/*/rgb/*.*", FILES),
        ("train/*/depth/*.png", [*FILES, picture_of((480, 640), np.uint16), picture_of((9, 9, 3))]),
        ("train/*/meta/*.pkl", [cut, junk, folder_instead, evil]),
        *[("train/*/meta/*.pkl", [pickled])] * 3,
        (
            "train.txt",
            [junk, remove, folder_instead, other_text("", "MC1", "MC1/x", "../a/0000", "MC9/0000")],
        ),
    ]
    malformations(root, lambda: Ho3d.of(str(root), "train", 24), targets, tmp_path / "out")
    assert not list(root.rglob("ran"))  # no pickle ever ran anything


def interhand_entry(held, rng):
    """Something in one of InterHand2.6M's label files is wrong."""
    if "annotations" in held:
        kind = str(rng.choice(["images", "annotations"]))
        entry = held[kind][int(rng.integers(len(held[kind])))]
        keys = {
            "images": ["id", "file_name", "capture", "camera", "frame_idx"],
            "annotations": ["image_id", "joint_valid"],
        }[kind]
        if rng.random() < 0.2:
            held[kind] = [None, "x", {}, [1]][int(rng.integers(4))]
        else:
            del entry[keys[int(rng.integers(len(keys)))]]
        return
    capture = held["0"]
    if "campos" in capture:
        field = str(rng.choice(["campos", "camrot", "focal", "princpt"]))
        camera = str(rng.choice(list(capture[field])))
        if rng.random() < 0.5:
            del capture[field][camera]
        else:
            capture[field][camera] = ["text", [], [1], [[1, 2]], None, [1e400] * 3][
                int(rng.integers(6))
            ]
        return
    frame = str(rng.choice(list(capture)))
    if rng.random() < 0.3:
        del capture[frame]
    else:
        wrong = [None, "x", [], [[1, 2, 3]], [[0, 0, 0]] * 42, [["a"] * 3] * 42]
        capture[frame]["world_coord"] = wrong[int(rng.integers(6))]


@pytest.mark.long
def test_interhand(tmp_path):
    root = tmp_path / "interhand"
    make_dataset("interhand", root, 4)
    labels = "annotations/train/InterHand2.6M_train_"
    edit = edited_json(interhand_entry)
    targets = [
        ("images/train/Capture0/*/*.jpg", FILES),
        *[(f"{labels}{kind}.json", [cut, junk, remove, edit, edit]) for kind in KINDS],
        *[(f"{labels}{kind}.json", [edit]) for kind in KINDS],
    ]
    malformations(root, lambda: InterHand(str(root), "train", 24), targets, tmp_path / "out")
