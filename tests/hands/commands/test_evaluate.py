import json
from dataclasses import replace

import numpy as np
import pytest
from torch import nn

from cmkg.errors import InputError
from cmkg.hands.commands import evaluate
from cmkg.hands.datasets import prediction_files
from cmkg.hands.datasets.packed.labelled_set import open_frames
from cmkg.hands.datasets.packed.pack import pack
from cmkg.hands.datasets.rhd import Rhd
from cmkg.hands.experiments import demo as main
from cmkg.hands.metrics import Protocol
from cmkg.hands.network.loader import Loader
from cmkg.hands.network.pose import Pose
from cmkg.hands.network.predictions import place_by_heatmaps
from cmkg.hands.rendering.scenes import SceneConfig
from cmkg.hands.synthesis.rendered import Rendered
from cmkg.runtime.distributed import launch


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


def test_an_export_without_the_truth_stands_where_its_heatmaps_say(tmp_path, capsys):
    """Of a network that is right: the heatmaps' centres are the projections."""
    packed = pack(Rendered(SceneConfig(px=40), 4), tmp_path / "set", workers=1)
    loader = Loader(open_frames(packed), 32)
    inputs = loader.fetch(range(4), turns=loader.turns_of(range(4), 0.0))
    bone_mm = 35.0
    wrist = packed.joints_mm[:, :1]
    own = inputs.scale_mm.double().numpy()[:, None, None]
    # the same hands in bones of 35 mm, as far away as they look as large
    expected = np.asarray(packed.joints_mm, float) * (bone_mm / own)

    class Right(nn.Module):
        def forward(self, _):
            return Pose(inputs.joints, inputs.uv)

    placed = place_by_heatmaps(Right(), loader, launch("32-true"), bone_mm)
    np.testing.assert_allclose(placed, expected, rtol=2e-3, atol=1.0)
    assert not np.allclose(placed[:, :1], wrist, atol=5)


def test_an_export_says_what_of_it_is_the_truths(whole, tmp_path, capsys):
    settings = evaluate.Evaluate(
        f"{whole}/target/none/seed-0/target.safetensors",
        f"{whole}/data/target-test",
        str(tmp_path / "e"),
        f"{whole}/student",
        precision="32-true",
        convention=f"{whole}/data/target",
        export=str(tmp_path / "p.npz"),
    )
    evaluate.run(settings)
    assert "stand at the true wrist" in capsys.readouterr().err
    free = replace(
        settings,
        no_truth=True,
        out=str(tmp_path / "f"),
        export=str(tmp_path / "q.npz"),
        protocol=Protocol(protocol="freihand"),
    )
    said = evaluate.format_result(evaluate.run(free))
    assert "absolute " in said
    assert "aligned by a similarity that may reflect" in said
    wrists = [np.load(tmp_path / name)["joints_mm"][:, 0] for name in ("p.npz", "q.npz")]
    assert np.abs(wrists[0] - wrists[1]).max() > 5
    with pytest.raises(InputError, match="expected --convention"):
        evaluate.run(replace(free, convention="", out=str(tmp_path / "g")))
