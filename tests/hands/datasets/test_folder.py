import json
import shutil

import cv2
import numpy as np
import pytest
from scipy.io import savemat

from cmkg.errors import InputError
from cmkg.hands import geometry
from cmkg.hands.datasets.folder import Folder
from cmkg.hands.datasets.folder_records import read_records
from cmkg.hands.datasets.folder_splits import splits_of
from cmkg.hands.datasets.packed.format import Packed
from cmkg.hands.datasets.packed.pack import pack
from cmkg.hands.inference.unlabelled import assumed_joints
from cmkg.hands.skeleton import JOINTS


@pytest.fixture
def own(made_sets, tmp_path):
    """A copy of made recordings, and a function that changes what its joints.json holds."""
    root = shutil.copytree(made_sets["folder"], tmp_path / "rec")

    def change(edit):
        held = json.loads((root / "joints.json").read_text())
        held = edit(held) or held
        (root / "joints.json").write_text(json.dumps(held))
        return Folder(str(root), "all", 32, locate=assumed_joints)

    return root, change


def test_joints_lie_on_the_picture_and_depth_at_their_z(made_sets):
    folder = Folder(str(made_sets["folder"]), "test", 48)
    for i in range(len(folder)):
        frame = folder.frame(i)
        uv = np.rint(geometry.project(frame.joints_mm, frame.K)).astype(int)
        height, width = frame.depth_mm.shape
        inside = (uv >= 0).all(1) & (uv[:, 0] < width) & (uv[:, 1] < height)
        depth = frame.depth_mm[uv[inside, 1], uv[inside, 0]].astype(float)
        off = np.abs(depth - frame.joints_mm[inside, 2])[depth > 0]
        assert np.quantile(off, 0.25) < 30
        sample = folder.samples([i])[0]
        assert sample.mirrored == frame.left


def test_units_orders_and_short_cameras_are_one_hand(own):
    _, change = own
    before = change(lambda held: None).frame(0)

    def other(held):
        record = held["samples"][0]
        joints = np.array(record.pop("joints_mm"))
        names = list(JOINTS[::-1])
        record["order"] = names
        record["joints_m"] = (joints[::-1] / 1000).tolist()
        fx, fy, cx, cy = record["K"]
        record["K"] = [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]

    after = change(other).frame(0)
    np.testing.assert_allclose(after.joints_mm, before.joints_mm, atol=1e-9)
    np.testing.assert_array_equal(after.K, before.K)


def test_npz_holds_the_same_records(own):
    root, change = own
    folder = change(lambda held: None)
    records = read_records(str(root)).records
    held = {
        "image": np.array([record["image"] for record in records]),
        "depth": np.array([record["depth"] for record in records]),
        "depth_unit_mm": np.array(1.0),
        "K": np.array([record["K"] for record in records]),
        "side": np.array([record["side"] for record in records]),
        "box": np.array([record["box"] for record in records]),
        "joints_mm": np.array(
            [record.get("joints_mm", np.full((21, 3), np.nan)) for record in records]
        ),
    }
    first = folder.samples(range(len(folder)))
    (root / "joints.json").unlink()
    np.savez(root / "joints.npz", **held)
    second = Folder(str(root), "all", 32, locate=assumed_joints).samples(range(len(folder)))
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a.rgb, b.rgb)
        np.testing.assert_array_equal(a.depth, b.depth)
        np.testing.assert_allclose(a.joints_mm, b.joints_mm)
        assert a.labelled == b.labelled


@pytest.mark.parametrize("how", ["npy", "red-high", "red-low"])
def test_depth_in_other_forms_is_the_same(own, how):
    root, change = own
    before = change(lambda held: None).frame(0).depth_mm

    def other(held):
        record = held["samples"][0]
        path = root / record["depth"]
        depth = cv2.imread(str(path), cv2.IMREAD_UNCHANGED).astype(int)
        if how == "npy":
            record["depth"], record["depth_unit_mm"] = "depth/0.npy", 1000
            np.save(root / "depth/0.npy", np.where(depth > 0, depth / 1000, np.nan))
            return
        high, low = depth // 256, depth % 256
        red, green = (high, low) if how == "red-high" else (low, high)
        cv2.imwrite(str(path), np.stack([0 * depth, green, red], -1).astype(np.uint8))
        record["depth_two_bytes"] = how

    np.testing.assert_array_equal(change(other).frame(0).depth_mm, before)


def test_an_unlabelled_hand_is_assumed_at_its_measured_depth(own):
    root, change = own
    folder = change(lambda held: None)
    number = next(i for i in range(len(folder)) if not folder.has_label(i))
    frame = folder.frame(number)
    assert not frame.labelled
    uv = geometry.project(frame.joints_mm, frame.K)
    x, y, width, height = folder.record(number)["box"]
    assert (uv[9] > [x, y]).all()
    assert (uv[9] < [x + width, y + height]).all()
    packed = pack(folder, root.parent / "packed", workers=1)
    assert packed.labels().sum() == sum(folder.has_label(i) for i in range(len(folder)))
    with pytest.raises(InputError, match="have no label"):
        Packed(root.parent / "packed").expect_labels()


# ---- splits --------------------------------------------------------------------------------------
def records(count, **fields):
    return [
        {"image": f"{i}.png"} | {name: values[i] for name, values in fields.items()}
        for i in range(count)
    ]


def written(tmp_path, held):
    (tmp_path / "joints.json").write_text(json.dumps(held))
    return str(tmp_path)


def test_the_last_fifth_is_the_test_and_no_sequence_is_cut(tmp_path):
    held = read_records(written(tmp_path, records(10)))
    assert splits_of(held).numbers == {"train": [*range(8)], "test": [8, 9]}
    held = read_records(written(tmp_path, records(10, sequence=list("aaaabbbccc"))))
    assert splits_of(held).numbers == {"train": [*range(7)], "test": [7, 8, 9]}
    people = {"person": list("xyxyxyxyxz"), "sequence": list("abcdefghij")}
    held = read_records(written(tmp_path, records(10, **people)))
    assert splits_of(held).numbers["test"] == [0, 2, 4, 6, 8, 9]  # x and z, whole


def test_hands_of_one_picture_stay_together_and_people_who_share_a_sequence(tmp_path):
    held = records(12)
    for i, record in enumerate(held):
        record["image"] = f"{i // 3}.png"
    found = splits_of(read_records(written(tmp_path, held))).numbers
    assert found == {"train": [*range(9)], "test": [9, 10, 11]}
    crossing = {"person": list("aabbccdd"), "sequence": [1, 1, 1, 2, 2, 3, 3, 4]}
    found = splits_of(read_records(written(tmp_path, records(8, **crossing))))
    assert found.numbers["test"] == [5, 6, 7]  # all people are joined: sequences stay whole
    assert found.rule.endswith("whole sequences")


def test_other_labels_are_another_packed_set(own):
    root, change = own
    out = root.parent / "packed"
    pack(change(lambda held: None), out, workers=1)

    def grow(held):
        for record in held["samples"]:
            if "joints_mm" in record:
                record["joints_mm"] = (1.2 * np.array(record["joints_mm"])).tolist()

    with pytest.raises(InputError, match="this set has records_crc32"):
        pack(change(grow), out, workers=1)


def test_a_record_with_one_visible_joint_has_a_box(own):
    _, change = own
    folder = change(lambda held: held["samples"][0].update(visible=[i == 9 for i in range(21)]))
    sample = folder.samples([0])[0]
    assert np.isfinite(sample.K).all()
    assert sample.rgb.std() > 1


def test_what_is_wrong_with_a_hand_without_a_label_is_told_of_its_box(own):
    root, change = own
    number = next(i for i, r in enumerate(read_records(str(root)).records) if "joints_mm" not in r)
    for box, sentence in (
        ([10, 10, 1e-9, 1e-9], rf"record {number}: box: expected finite numbers and 2 pixels"),
        ([9000, 9000, 50, 50], rf"record {number} has no label, and what is assumed"),
    ):
        folder = change(lambda held, box=box: held["samples"][number].update(box=box))
        with pytest.raises(InputError, match=sentence):
            folder.frame(number)


def test_fit_and_validation_are_the_training_frames(tmp_path):
    root = written(tmp_path, records(30))
    train = Folder(root, "train").numbers()
    parts = [Folder(root, split).numbers() for split in ("fit", "validation")]
    assert [*parts[0], *parts[1]] == [*train]
    assert len(parts[1]) == 4


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"split": ["a", "b", None]}, "record 2, field 'split' is None"),
        ({"split": ["a", "b", "all"]}, "field 'split' is 'all'"),
        (
            {"split": ["a", "b", "a"], "person": ["x", "y", "y"]},
            "person 'y' is in the splits 'b' and 'a'",
        ),
        ({"sequence": [1, 1, 2], "split": ["a", "b", "b"]}, "sequence 1 is in the splits"),
        ({"image": ["x.png", "x.png", "y.png"], "split": ["a", "b", "b"]}, "image 'x.png' is in"),
        ({"person": ["x", None, "y"]}, "record 1 has no field 'person', others have one"),
        ({"joint": [1, 2, 3]}, "record 0 has a field 'joint', which nothing here reads"),
    ],
)
def test_a_split_that_cuts_is_one_sentence(tmp_path, fields, sentence):
    with pytest.raises(InputError, match=sentence):
        len(Folder(written(tmp_path, records(3, **fields)), "all"))


def test_a_split_without_records_is_told(tmp_path):
    with pytest.raises(InputError, match="the split 'train' has no records: there are 1 in all"):
        len(Folder(written(tmp_path, records(1)), ""))


def test_another_split_is_refused_by_the_names_there_are(tmp_path):
    with pytest.raises(InputError, match="expected one of train, test, all, got 'dev'"):
        len(Folder(written(tmp_path, records(5)), "dev"))


# ---- the 460 real hands --------------------------------------------------------------------------
def test_real_hands_are_centimetres_left_and_cropped(photographs):
    root, joints, *_ = photographs
    folder = Folder(str(root), "train", 80)
    sample = folder.samples([2])[0]
    back = sample.joints_mm @ sample.rotation  # out of the virtual camera
    np.testing.assert_allclose(back, 10 * joints[2] * [-1, 1, 1], rtol=1e-5)
    assert sample.mirrored
    uv = geometry.project(sample.joints_mm, sample.K)
    np.testing.assert_allclose(uv[9], [39.5, 39.5], atol=1e-6)
    lengths = [len(Folder(str(root), split)) for split in ("train", "test", "fit", "validation")]
    assert lengths == [360, 100, 300, 60]


def test_more_real_hands_than_460_are_all_read(photographs):
    root, joints, cameras, boxes = photographs
    savemat(root / "params.mat", {"cam_param": cameras.repeat(2, 0), "bbox": boxes.repeat(2, 0)})
    savemat(root / "pose_gt.mat", {"pose_gt": joints.repeat(2, 0)})
    assert len(Folder(str(root), "all")) == 920


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda f: (f / "images/00001.jpg").unlink(), "images/00001.jpg: no such file"),
        (
            lambda f: (f / "images/00001.jpg").write_bytes(b"\xff\xd8 broken"),
            "images/00001.jpg: expected",
        ),
        (lambda f: (f / "pose_gt.mat").unlink(), "has neither joints.json nor joints.npz"),
        (
            lambda f: (f / "pose_gt.mat").write_bytes(b"junk" * 99),
            "pose_gt.mat: expected a MATLAB file",
        ),
        (
            lambda f: savemat(f / "pose_gt.mat", {"other": np.zeros(3)}),
            "pose_gt.mat: .*has no field 'pose_gt'",
        ),
        (
            lambda f: savemat(f / "pose_gt.mat", {"pose_gt": np.zeros((460, 20, 3))}),
            r"field 'pose_gt' has shape \(460, 20, 3\)",
        ),
        (
            lambda f: savemat(f / "pose_gt.mat", {"pose_gt": np.full((460, 21, 3), np.nan)}),
            "'pose_gt' holds a number that is not finite",
        ),
        (
            lambda f: savemat(f / "pose_gt.mat", {"pose_gt": np.ones((100, 21, 3))}),
            "params.mat: field 'cam_param' has shape",
        ),
        (
            lambda f: savemat(f / "params.mat", {"cam_param": np.ones((460, 4))}),
            "params.mat: .*has no field 'bbox'",
        ),
    ],
)
def test_bad_real_hands_are_one_sentence(photographs, damage, sentence):
    damage(photographs[0])
    with pytest.raises(InputError, match=sentence):
        Folder(str(photographs[0]), "train").samples([0, 1])


@pytest.mark.parametrize("how", ["spelled", "linked", "copied"])
def test_one_picture_under_two_names_is_in_one_split(made_sets, tmp_path, how):
    root = tmp_path / "root"
    shutil.copytree(made_sets["folder"], root)
    held = json.loads((root / "joints.json").read_text())
    records = (held["samples"] if isinstance(held, dict) else held)[:6]
    for number, record in enumerate(records):
        record.pop("person", None)
        record.pop("sequence", None)
        record["split"] = "test" if number == 5 else "train"
    records[5]["image"] = "other.png"
    first = root / records[0]["image"]
    if how == "spelled":
        records[5]["image"] = f"./{records[0]['image']}"
    elif how == "linked":
        (root / "other.png").symlink_to(first)
    else:
        shutil.copy(first, root / "other.png")
    (root / "joints.json").write_text(json.dumps(records))
    with pytest.raises(InputError, match="is in the splits 'train' and 'test'"):
        len(Folder(str(root), "train", 32))
