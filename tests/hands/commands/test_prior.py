import pytest
import torch

from cmkg.errors import InputError
from cmkg.hands.commands import prior_compare, prior_info, prior_merge, prior_plot
from cmkg.prior.prior import Prior


def test_info_compare_merge_plot(prior_files, tmp_path, capsys):
    prior_info.run(prior_info.PriorInfo(prior_files[0]))
    said = capsys.readouterr().out
    assert "source         source 0" in said
    assert "phi / noise" in said
    assert "0.0.0.weight" in said
    prior_compare.run(prior_compare.ComparePriors(prior_files[0], prior_files[0]))
    assert all(
        "1.000     100.0%          1" in line for line in capsys.readouterr().out.splitlines()[1:]
    )
    prior_compare.run(prior_compare.ComparePriors(*prior_files))
    assert "different initialisations" not in capsys.readouterr().out
    for how in ("mean", "precision", "sign"):
        prior_merge.run(
            prior_merge.MergePriors(tuple(prior_files), str(tmp_path / f"{how}.safetensors"), how)
        )
        assert Prior.load(tmp_path / f"{how}.safetensors").manifest["merged"] == how
    a, b = map(Prior.load, prior_files)
    torch.testing.assert_close(
        Prior.load(tmp_path / "mean.safetensors").phi["2.weight"],
        (a.phi["2.weight"] + b.phi["2.weight"]) / 2,
    )
    prior_plot.run(prior_plot.PlotPrior(prior_files[0], str(tmp_path / "p.svg")))
    assert (tmp_path / "p.svg").read_text().startswith("<svg")
    with pytest.raises(InputError, match="at least two priors, got 1"):
        prior_merge.run(prior_merge.MergePriors((prior_files[0],), "x"))
    Prior({"w": torch.zeros(1, 1)}).save(tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="no layer of the same name"):
        prior_compare.run(
            prior_compare.ComparePriors(prior_files[0], str(tmp_path / "other.safetensors"))
        )
