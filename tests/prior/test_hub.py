import pytest
import torch

from cmkg.prior.hub import SharedPrior
from cmkg.prior.prior import Prior
from tests.conftest import small_net


@pytest.fixture
def files(tmp_path):
    net = small_net(dtype=torch.float32)
    for i in range(2):
        prior = Prior.constant(
            net, 0.0, facts={"source": f"source {i}", "alpha": 1e-3}
        ).track_noise()
        for _ in range(4):
            prior.learn_({n: torch.randn_like(t) + 1 + i for n, t in prior.phi.items()}, 0.1)
        prior.save(tmp_path / f"{i}.safetensors")
    return [str(tmp_path / f"{i}.safetensors") for i in range(2)]


def test_a_prior_goes_through_the_mixin(files, tmp_path):
    prior = Prior.load(files[0])
    SharedPrior(prior).save_pretrained(tmp_path / "shared")
    again = SharedPrior.from_pretrained(tmp_path / "shared").prior
    assert all(torch.equal(again.phi[n], t) for n, t in prior.phi.items())
    assert again.manifest["source"] == "source 0"
    text = (tmp_path / "shared/README.md").read_text()
    assert text.startswith("---\nlibrary_name: cmkg\n")
    assert "| p | 2 |" in text
