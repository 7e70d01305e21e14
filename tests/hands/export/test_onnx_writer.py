import json

import numpy as np
import pytest
import torch

from cmkg.errors import InputError
from cmkg.hands.commands import export_student as export
from cmkg.hands.datasets.packed.format import Packed
from cmkg.hands.export import onnx_writer as onnx_files
from cmkg.hands.export.calibration import (
    Judged,
    calibration_error,
    fit_calibration,
    halves,
    judge_joints,
    reliability,
)
from cmkg.hands.export.onnx_backend import OnnxFile
from cmkg.hands.network.hand_student import HandStudent
from cmkg.hands.skeleton import JOINTS

pytest.importorskip("onnxruntime")


@pytest.mark.parametrize(("half", "off"), [(False, 1e-4), (True, 2e-2)])
def test_the_file_says_what_python_says_for_any_batch(tmp_path, half, off):
    torch.manual_seed(0)
    student = HandStudent("resnet10", 0.125, "integral", 2, 32, bone_mm=31.5, calibration=(-1, -2))
    student.eval()
    onnx_files.write_onnx(student, tmp_path / "student.onnx", half)
    hand = OnnxFile(tmp_path / "student.onnx")
    assert json.loads(hand.facts["joints"]) == list(JOINTS)
    assert (hand.facts["px"], hand.facts["bone_mm"]) == ("32", "31.5")
    for count in (1, 3):
        picture = np.random.default_rng(count).uniform(0, 255, (count, 3, 32, 32))
        picture = picture.astype(np.float32)
        found = hand(picture)
        with torch.no_grad():
            right = onnx_files.OnnxStudent(student)(torch.from_numpy(picture))
        for name, expected in zip(onnx_files.OUTPUTS, right, strict=True):
            np.testing.assert_allclose(found[name], expected.numpy(), atol=off)


def test_export_calibrates_and_writes_every_form(whole, tmp_path):
    config = export.ExportStudent(
        stage=str(whole / "depth"),
        student=str(whole / "student"),
        out=str(tmp_path / "hub"),
        data=str(whole / "data/source-test"),
        onnx=True,
        int8=True,
    )
    export.run(config)
    assert (tmp_path / "hub/student-int8.onnx").exists()
    assert "in 8 bits" in (tmp_path / "hub/README.md").read_text()
    assert "<svg" in (tmp_path / "hub/reliability.svg").read_text()
    student = HandStudent.from_pretrained(tmp_path / "hub")
    packed = Packed(whole / "data/source-test")
    bones = np.linalg.norm(packed.joints_mm[:, 9] - packed.joints_mm[:, 10], axis=1)
    assert student.bone_mm == pytest.approx(bones.mean(), abs=0.01)
    assert student.calibration == pytest.approx(
        fit_calibration(judge_joints(student, packed, halves(packed)[0]))
    )
    with pytest.raises(InputError, match="--int8: give --data"):
        export.ExportStudent("stage", "student", "out", int8=True)
    with pytest.raises(InputError, match="expected ONNX"):
        OnnxFile(tmp_path / "hub/config.json")


def test_confidence_is_fitted_to_how_often_joints_are_right():
    rng = np.random.default_rng(0)
    log_spread = rng.normal(-2, 0.5, 20_000)
    true = 1 / (1 + np.exp(-(-3.0 - 2.0 * log_spread)))
    judged = Judged(log_spread, rng.uniform(size=len(true)) < true)
    assert fit_calibration(judged) == pytest.approx((-3.0, -2.0), abs=0.1)
    a, b = fit_calibration(judged)
    found = reliability(1 / (1 + np.exp(-(a + b * log_spread))), judged.is_near)
    assert calibration_error(found) < 0.02
    wrong = reliability(np.full(len(true), 0.99), judged.is_near)
    assert calibration_error(wrong) > 0.1
