import torch

from cmkg.prior.hub import SharedPrior
from cmkg.prior.prior import Prior


def test_a_prior_goes_through_the_mixin(prior_files, tmp_path):
    prior = Prior.load(prior_files[0])
    SharedPrior(prior).save_pretrained(tmp_path / "shared")
    again = SharedPrior.from_pretrained(tmp_path / "shared").prior
    assert all(torch.equal(again.phi[n], t) for n, t in prior.phi.items())
    assert again.manifest["source"] == "source 0"
    text = (tmp_path / "shared/README.md").read_text()
    assert text.startswith("---\nlibrary_name: cmkg\n")
    assert "| p | 2 |" in text
