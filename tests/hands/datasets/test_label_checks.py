import json
import shutil

import cv2
import numpy as np
import pytest

from cmkg.errors import InputError
from cmkg.hands.commands.data_verify import Verify
from cmkg.hands.commands.data_verify import run as verify
from cmkg.hands.datasets.label_checks import curl, disagreements, grouped
from cmkg.hands.datasets.sample import Frame
from cmkg.hands.rendering.scenes import SceneConfig
from cmkg.hands.stages.which_dataset import Which
from cmkg.hands.synthesis.rendered import Rendered
from tests.hands.copies import clear, rewrite


@pytest.fixture
def rhd(made_sets, tmp_path):
    clear()
    yield shutil.copytree(made_sets["rhd"], tmp_path / "rhd")
    clear()


def findings(root, capsys, dataset="rhd", split="training"):
    """What verify prints of a damaged dataset."""
    with pytest.raises(InputError, match="finding"):
        verify(Verify(Which(dataset, str(root), split), workers=1))
    return capsys.readouterr().out


def each(labels, change):
    for entry in labels.values():
        change(entry)


def shift_camera(labels):
    each(labels, lambda e: e["K"].__setitem__((0, 2), e["K"][0, 2] + 30))


def swap_fingers(labels):
    """Index and little finger, of both hands."""
    order = np.arange(42)
    for start in (0, 21):
        order[start + 5 : start + 9], order[start + 17 : start + 21] = (
            np.arange(start + 17, start + 21),
            np.arange(start + 5, start + 9),
        )
    each(labels, lambda e: e.update(xyz=e["xyz"][order], uv_vis=e["uv_vis"][order]))


def swap_hands(labels):
    order = np.r_[21:42, 0:21]
    each(labels, lambda e: e.update(xyz=e["xyz"][order], uv_vis=e["uv_vis"][order]))


def negate_x(labels):
    each(labels, lambda e: e["xyz"].__imul__(np.array([-1, 1, 1], e["xyz"].dtype)))


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (shift_camera, "30.0 px from where the file puts it"),
        (swap_fingers, "(left for right, a mirrored picture, or fingers out of order?)"),
        (swap_hands, "(are joints and mask of one hand?)"),
        (negate_x, "px from where the file puts it"),
    ],
)
def test_wrong_labels_are_found_by_name(rhd, capsys, damage, sentence):
    rewrite(rhd / "training/anno_training.pickle", damage)
    assert sentence in findings(rhd, capsys)


def test_swapped_depth_bytes_and_empty_masks_are_found(rhd, capsys):
    for path in (rhd / "training/depth").iterdir():
        cv2.imwrite(str(path), cv2.imread(str(path))[..., [0, 2, 1]])
    path = rhd / "training/mask/00003.png"
    cv2.imwrite(str(path), 0 * cv2.imread(str(path), 0))
    said = findings(rhd, capsys)
    assert "(bytes, unit, or not registered to the picture?)" in said
    assert "id 3: the mask shows no hand" in said


def test_one_picture_under_two_labels_is_found(rhd, capsys):
    shutil.copy(rhd / "training/color/00001.png", rhd / "training/color/00004.png")
    assert "00004.png: the same picture as 00001.png" in findings(rhd, capsys)


def test_findings_of_one_kind_are_one_line(rhd, capsys):
    for path in (rhd / "training/color").iterdir():
        path.unlink()
    said = findings(rhd, capsys)
    assert "00000.png: no such file; expected a picture; copy it again (and 7 more like it)" in said
    assert len(said.splitlines()) == 1


def test_depth_in_some_records_is_one_sentence(made_sets, tmp_path, capsys):
    root = recordings(made_sets, tmp_path, lambda root, record: None)
    held = json.loads((root / "joints.json").read_text())
    del held["samples"][1]["depth"]
    (root / "joints.json").write_text(json.dumps(held))
    assert "record 1 has no depth map, others" in findings(root, capsys, "folder", "train")


def test_all_made_sets_agree_with_themselves(made_sets):
    for dataset, split in (("rhd", ""), ("stb", "train"), ("freihand", ""), ("folder", "all")):
        clear()
        verify(Verify(Which(dataset, str(made_sets[dataset]), split), workers=1))


def recordings(made_sets, tmp_path, change):
    root = shutil.copytree(made_sets["folder"], tmp_path / "rec")
    held = json.loads((root / "joints.json").read_text())
    for record in held["samples"]:
        change(root, record)
    (root / "joints.json").write_text(json.dumps(held))
    return root


def other_side(_, record):
    record["side"] = {"left": "right", "right": "left"}[record["side"]]


def metres_as_millimetres(_, record):
    if "joints_mm" in record:
        record["joints_mm"] = (np.array(record["joints_mm"]) / 1000).tolist()


def base_to_tip(_, record):
    if "joints_mm" in record:
        order = [0, *(4 * f + k for f in range(5) for k in (4, 3, 2, 1))]
        record["joints_mm"] = [record["joints_mm"][i] for i in order]


def other_unit(_, record):
    record["depth_unit_mm"] = 0.25


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (other_side, "the fingers bend as a"),
        (metres_as_millimetres, "is the unit right?"),
        (base_to_tip, "in order?"),
        (other_unit, "depth at the joints is -"),
    ],
)
def test_wrong_recordings_are_found_by_name(made_sets, tmp_path, capsys, change, sentence):
    root = recordings(made_sets, tmp_path, change)
    assert sentence in findings(root, capsys, "folder", "all")


def test_right_hands_curl_to_the_positive_side():
    from cmkg.hands.body.mesh import anny_hand, pose_hand
    from cmkg.hands.body.poses import sample_angles

    hand, rng = anny_hand(), np.random.default_rng(0)
    bent = []
    for _ in range(60):
        angles = sample_angles(rng)
        joints = 1000 * pose_hand(hand, np.zeros(len(hand.shape_directions)), angles)[1]
        bent.append(curl(joints))
        assert curl(joints * [-1, 1, 1]) == pytest.approx(-bent[-1])
    assert np.mean(np.array(bent) > 0) > 0.9


def test_numbers_and_joints_make_no_kind():
    said = ["a 3: index tip off by 2.5", "a 44: wrist off by -1e-3", "b"]
    assert grouped(said) == ["a 3: index tip off by 2.5 (and 1 more like it)", "b"]


@pytest.mark.parametrize("pair", [(1, 2), (2, 3)])
def test_joints_of_a_finger_that_are_exchanged_are_seen(pair):
    """PIP with DIP, DIP with tip: the finger runs back along itself."""
    hands = Rendered(SceneConfig(px=16, seed=5), 40).samples(range(40))
    found = 0
    for sample in hands:
        frame = Frame(sample.rgb, sample.joints_mm, sample.K)
        assert not [s for s in disagreements(frame, "a") if "run back" in s]
        exchanged = sample.joints_mm.copy()
        first, second = (1 + 4 * np.arange(5) + part for part in pair)
        exchanged[first], exchanged[second] = sample.joints_mm[second], sample.joints_mm[first]
        said = disagreements(Frame(sample.rgb, exchanged, sample.K), "a")
        found += any("run back along themselves" in sentence for sentence in said)
    assert found >= 38
