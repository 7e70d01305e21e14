import json

import numpy as np
import pytest

from cmkg.hands.datasets import prediction_files
from cmkg.hands.datasets.packed import pack
from cmkg.hands.datasets.rhd import Rhd
from cmkg.hands.experiments import main
from cmkg.hands.metrics import Protocol
from cmkg.hands.stages import evaluate


@pytest.fixture(scope="module")
def packed(made_sets, tmp_path_factory):
    return pack(Rhd(str(made_sets["rhd"]), px=24), tmp_path_factory.mktemp("p") / "set", workers=1)


def test_anyones_file_is_scored(packed, tmp_path):
    true = np.asarray(packed.joints_mm, float)
    # a shift is no error: the root is given
    prediction_files.write_predictions(
        tmp_path / "good.json", prediction_files.to_dataset_frame(true + 7.0, packed)
    )
    result = evaluate.run(
        evaluate.Evaluate(
            data=str(packed.folder),
            predictions=str(tmp_path / "good.json"),
            out=str(tmp_path / "a"),
        )
    )
    assert result["epe_mm"] == pytest.approx(0, abs=1e-6)
    assert result["auc"] == 1
    off = true.copy()
    off[:, 4, 0] += 21.0  # the thumb's tip alone
    prediction_files.write_predictions(
        tmp_path / "off.npz", prediction_files.to_dataset_frame(off, packed)
    )
    protocol = {"root": "palm", "joints": "visible", "thresholds": "0-50"}
    result = evaluate.run(
        evaluate.Evaluate(
            data=str(packed.folder),
            predictions=str(tmp_path / "off.npz"),
            out=str(tmp_path / "b"),
            protocol=Protocol(**protocol),
        )
    )
    seen = np.asarray(packed.visible)
    assert result["epe_mm"] == pytest.approx(21 * seen[:, 4].sum() / seen.sum())
    said = evaluate.format_result(result)
    assert "palm root, visible joints, not aligned, scale as predicted" in said
    assert "AUC 0-50" in said


def test_evaluate_gives_the_result_of_the_run_again(whole, tmp_path):
    again = evaluate.run(
        evaluate.Evaluate(
            f"{whole}/target/none/seed-0/target.safetensors",
            f"{whole}/data/target-test",
            str(tmp_path / "e"),
            f"{whole}/student",
            precision="32-true",
            convention=f"{whole}/data/target",
            test_time_rotations_deg=main.Experiment().expert.test_time_rotations_deg,
        )
    )
    first = json.loads((whole / "target/none/seed-0/result.json").read_text())
    assert again["epe_mm"] == pytest.approx(first["epe_mm"], rel=1e-6)
