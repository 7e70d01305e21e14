import numpy as np
import pytest
import torch

from cmkg.hands.network.hand_student import HandStudent
from cmkg.hands.rendering.scenes import SceneConfig
from cmkg.hands.skeleton import BONES, RULER_SHARE
from cmkg.hands.synthesis.rendered import Rendered


def test_a_hand_student_goes_through_the_mixin(tmp_path):
    student = HandStudent("resnet10", 0.125, "integral", 2, 32)
    student.save_pretrained(tmp_path / "hand")
    again = HandStudent.from_pretrained(tmp_path / "hand")
    crops = np.random.default_rng(0).integers(0, 255, (3, 50, 50, 3), np.uint8)
    joints = again.joints_mm(crops, 33.0)
    assert again.px == 32
    assert joints.shape == (3, 21, 3)
    assert torch.equal(joints, student.joints_mm(crops, 33.0))
    assert joints[:, 0].abs().max() < 33 * 21  # the pooled part may move the wrist


def test_what_a_ruler_says_is_the_students_own_bone():
    """Of rendered hands, measured as a person would: by their length, and a first bone's share."""
    hands = Rendered(SceneConfig(px=32), 32)
    student = HandStudent("resnet10", 0.125, "integral", 2, 32)
    for sample in hands.samples(range(32)):
        joints = sample.joints_mm
        length = sum(np.linalg.norm(joints[a] - joints[b]) for a, b in BONES[8:12])
        own = np.linalg.norm(joints[9] - joints[10])
        assert student.unit_of(RULER_SHARE * length) == pytest.approx(own, rel=0.08)
    assert student.unit_of(45.0) == pytest.approx(
        34.2, abs=0.5
    )  # a usual hand's, in this convention
