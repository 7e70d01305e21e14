import torch
from safetensors.torch import load_file

from cmkg.hands.stages import distill
from cmkg.prior import Prior, fingerprint
from tests.hands.runs import SMALL, common, settings


def test_the_students_path_does_not_depend_on_phi(whole, tmp_path):
    shared = {**common(whole), **SMALL}
    folders = {"student": str(whole / "student"), "teacher": str(whole / "teacher")}
    weights = {}
    for name, exponents in (("alone", ()), ("both", (1, 2))):
        out = str(tmp_path / name)
        distill.run(settings(distill.Distill, **shared, **folders, exponents=exponents, out=out))
        weights[name] = load_file(tmp_path / name / "distilled.safetensors")
    for name, alone in weights["alone"].items():
        assert torch.equal(weights["both"][name], alone), name
    priors = {p: Prior.load(tmp_path / f"both/prior_p{p}.safetensors") for p in (1, 2)}
    theta_0 = load_file(whole / "student/theta_0.safetensors")
    for p, prior in priors.items():
        assert (prior.p, prior.manifest["iterations"]) == (p, 48 // 8)
        assert prior.rms() > 0
        assert prior.variance is not None
        own = {name: theta_0[name] for name in theta_0 if name in weights["both"]}
        assert set(prior.phi) <= set(own)
        assert prior.manifest["fingerprint"] != fingerprint(own | {"0": torch.zeros(1)})
        assert prior.manifest["source"] == "source"  # a name, no path of this machine
    assert not (tmp_path / "alone/prior_p2.safetensors").exists()
