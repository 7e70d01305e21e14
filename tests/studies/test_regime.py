import json

import pytest

from studies import regime

pytestmark = pytest.mark.slow


def test_the_regime_and_its_bounds(whole, tmp_path):
    config = regime.Regime(
        base=str(whole),
        out=str(tmp_path / "regime"),
        frames=20,
        steps=1,
        strengths=(1.0,),
        precision="32-true",
    )
    regime.run(config)
    found = json.loads((tmp_path / "regime/regime.json").read_text())
    rows = {r["label"]: r for r in found["carried"]["rows"]}
    assert rows["theta_0"]["cosine"] == 0
    assert rows["distilled"]["cosine"] == pytest.approx(1)
    assert 0 < rows["sizes"]["cosine"] < 1
    assert (
        rows["two checkpoints, from theta_0 on"]["cosine"]
        > rows["two checkpoints, from theta_0 on, permuted"]["cosine"]
    )
    assert found["alike"]["beta x 10"] > 0.99
    assert set(found["curves"]) >= {
        "none",
        "l2",
        "prior",
        "two checkpoints, decoupled",
    }
    before = (tmp_path / "regime/regime.json").stat().st_mtime_ns
    regime.run(config)
    assert (tmp_path / "regime/regime.json").stat().st_mtime_ns >= before
