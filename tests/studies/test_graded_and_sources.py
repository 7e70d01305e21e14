import json

import pytest
import torch
from studies.base import Training

from cmkg.hands.datasets.packed import Packed
from cmkg.prior import Prior
from studies import graded, sources

pytestmark = pytest.mark.slow


def test_graded_targets_and_more_sources(whole, tmp_path):
    training = Training(seeds=(0,), tries=(1.0,), precision="32-true")
    few = {"base": str(whole), "training": training}
    graded.run(
        graded.Graded(
            out=str(tmp_path / "graded"),
            sizes=(20,),
            shifts=("views",),
            test_frames=8,
            steps=2,
            rows=("none", "l2"),
            **few,
        )
    )
    cells = json.loads((tmp_path / "graded/cells.json").read_text())["cells"]
    assert [c["target"] for c in cells] == ["size-20", "shift-views"]
    assert all(len(c["rows"]) == 2 for c in cells)
    assert len(Packed(tmp_path / "graded/data/size-20/target")) == 20
    sources.run(
        sources.Sources(
            out=str(tmp_path / "sources"),
            source_seeds=(1,),
            epochs=1,
            rows=("none", "prior-p2"),
            **few,
        )
    )
    cells = {
        c["target"]: {r["name"]: r for r in c["rows"]}
        for c in json.loads((tmp_path / "sources/cells.json").read_text())["cells"]
    }
    assert set(cells["several"]) == {
        "prior-other",
        "merged-mean",
        "merged-precision",
        "merged-sign",
    }
    # another theta_0
    assert (
        cells["source-0"]["none"]["epe_mm"]["values"]
        != cells["source-1"]["none"]["epe_mm"]["values"]
    )
    mean, other, own = (
        Prior.load(p)
        for p in (
            tmp_path / "sources/several/stages/merged_mean.safetensors",
            tmp_path / "sources/several/stages/distill/prior_p2.safetensors",
            whole / "distill/prior_p2.safetensors",
        )
    )
    name = next(iter(mean.phi))
    assert torch.allclose(mean.phi[name], (other.phi[name] + own.phi[name]) / 2)
