import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from studies.base import Training

from cmkg.prior import Prior
from studies import controls

pytestmark = pytest.mark.slow


def test_the_study_runs_its_controls_on_a_finished_run(whole, tmp_path):
    names = (
        "none",
        "l2",
        "l2-to-distilled",
        "prior-no-teacher",
        "prior-l3",
        "fresh-prior",
        "early-none",
        "fisher-centred",
        "fine-tune-distilled",
        "prior-whole",
        "prior-from-theta-0",
        "prior-adam-two-checkpoints",
    )
    config = controls.Controls(
        base=str(whole),
        out=str(tmp_path / "study"),
        epochs=1,
        only=names,
        training=Training(seeds=(0, 1), tries=(1.0,), precision="32-true"),
    )
    controls.run(config)
    found = json.loads((tmp_path / "study/study.json").read_text())
    assert [r["name"] for r in found["rows"]] == [
        "none",
        "l2",
        "fine-tune-distilled",
        "prior-no-teacher",
        "prior-l3",
        "prior-whole",
        "prior-from-theta-0",
        "prior-adam-two-checkpoints",
        "l2-to-distilled",
        "fresh-prior",
        "early-none",
        "fisher-centred",
    ]
    rows = {r["name"]: r for r in found["rows"]}
    against = rows["none"]["against"]["l2"]
    paired = np.array(rows["none"]["epe_mm"]["values"]) - rows["l2"]["epe_mm"]["values"]
    assert against["mean"] == pytest.approx(paired.mean())
    assert (
        paired.min() - 1e-9
        <= against["interval"][0]
        <= against["interval"][1]
        <= paired.max() + 1e-9
    )
    priors = [
        load_file(p)
        for p in (
            whole / "distill/prior_p2.safetensors",
            tmp_path / "study/no-teacher/prior_p2.safetensors",
            tmp_path / "study/l3/prior_p2.safetensors",
        )
    ]
    name = "phi/backbone.encoder.stages.0.layers.0.layer.0.convolution.weight"
    assert not torch.equal(priors[0][name], priors[1][name])
    assert not torch.equal(priors[0][name], priors[2][name])
    assert not (tmp_path / "study/split").exists()  # no row needs it
    # its two checkpoints' row needs its end, no row its phi
    assert (tmp_path / "study/adam/distilled.safetensors").exists()
    from_theta_0 = [
        Prior.load(tmp_path / "study" / p)
        for p in ("prior_from_theta_0.safetensors", "from-theta-0/prior_p2.safetensors")
    ]
    assert {p.manifest["fingerprint"] for p in from_theta_0} == {
        Prior.load(whole / "distill/prior_p2.safetensors").manifest["fingerprint"]
    }
    assert "against tuned ℓ²" in (tmp_path / "study/study.md").read_text()
    assert "ℓ², σ tuned" in (tmp_path / "study/study.svg").read_text()
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "study").rglob("*.safetensors")}
    controls.run(config)
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "study").rglob("*.safetensors")}
