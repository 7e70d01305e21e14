import numpy as np
import torch


def test_a_hand_student_goes_through_the_mixin(tmp_path):
    from cmkg.hands.network.hand_student import HandStudent

    student = HandStudent("resnet10", 0.125, "integral", 2, 32)
    student.save_pretrained(tmp_path / "hand")
    again = HandStudent.from_pretrained(tmp_path / "hand")
    crops = np.random.default_rng(0).integers(0, 255, (3, 50, 50, 3), np.uint8)
    joints = again.joints_mm(crops, 33.0)
    assert again.px == 32
    assert joints.shape == (3, 21, 3)
    assert torch.equal(joints, student.joints_mm(crops, 33.0))
    assert joints[:, 0].abs().max() < 33 * 21  # the pooled part may move the wrist
