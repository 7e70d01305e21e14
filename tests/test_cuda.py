"""What only a GPU shows; left out where there is none."""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cmkg.distillation.distiller import Distiller
from cmkg.prior.learner import MetaConfig, PriorLearner
from cmkg.prior.prior import Prior
from cmkg.training.calls import FitConfig, learn_prior, train_with_prior
from tests.conftest import small_net

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
PAIRS = [("0.0", "0.0"), ("0.3", "0.3")]


def source(batches=6):
    g = torch.Generator().manual_seed(3)
    sizes = ((16, 3, 8, 8), (16, 1, 8, 8), (16, 6))
    return [tuple(torch.randn(size, generator=g) for size in sizes) for _ in range(batches)]


def learned_on(device, precision="32-true", alpha=1e-3, **settings):
    student, teacher = (small_net(c, s, torch.float32) for c, s in ((3, 0), (1, 7)))
    sgd = partial(torch.optim.SGD, lr=1e-3)  # Adam makes steps of the noise in front of BatchNorm
    fit = FitConfig(optimizer=sgd, device=device, precision=precision, quiet=True, **settings)
    meta = MetaConfig(alpha=alpha, beta=1.0)
    learned = learn_prior(student, teacher, source(), meta=meta, pairs=PAIRS, fit=fit)
    return student, learned.prior


@pytest.mark.parametrize("make", ["adam", "fused", "sgd"])
@pytest.mark.parametrize("coupled", [False, True])
@pytest.mark.parametrize("overflow", [False, True])
def test_under_float16_and_a_grad_scaler_it_is_the_step_without(make, coupled, overflow):
    """Three scaled steps are those of plain float32 gradients; a step that is skipped pulls
    nothing."""
    makers = {
        "adam": lambda p: torch.optim.AdamW(p, 1e-2),
        "fused": lambda p: torch.optim.AdamW(p, 1e-2, fused=True),
        "sgd": lambda p: torch.optim.SGD(p, 1e-2, momentum=0.9, fused=True),
    }
    torch.manual_seed(0)
    a = nn.Linear(6, 4).cuda()
    b = copy.deepcopy(a)
    x = torch.randn(16, 6, device="cuda")
    prior, scaler = Prior.constant(a, 0.3), torch.amp.GradScaler("cuda", init_scale=1024.0)
    plain, scaled = makers[make](a.parameters()), makers[make](b.parameters())
    mine, theirs = prior.attach(plain, a, coupled), prior.attach(scaled, b, coupled)
    for _ in range(3):
        plain.zero_grad()
        a(x).square().mean().backward()
        plain.step()
        scaled.zero_grad()
        scaler.scale(b(x).square().mean()).backward()
        scaler.step(scaled)
        scaler.update()
    torch.testing.assert_close(a.weight, b.weight)
    before = b.weight.clone()
    if overflow:
        scaled.zero_grad()
        scaler.scale(b(x).sum() * float("inf")).backward()
        scaler.step(scaled)
        assert torch.equal(b.weight, before)
    assert mine.steps == theirs.steps == 3


def test_phi_learned_on_the_gpu_is_that_of_the_cpu():
    (here, phi), (there, other) = learned_on("cpu"), learned_on("cuda")
    for a, b in zip(here.parameters(), there.parameters(), strict=True):
        torch.testing.assert_close(a, b.cpu(), rtol=1e-3, atol=1e-4)
    for name, one in phi.phi.items():
        away = (one - other.phi[name].cpu()).norm() / one.norm()
        assert float(away) < 1e-2, name


def test_in_bfloat16_phi_stays_in_float32_and_agrees():
    (_, phi), (_, other) = learned_on("cuda"), learned_on("cuda", "bf16-mixed")
    for name, one in phi.phi.items():
        assert other.phi[name].dtype == torch.float32
        assert F.cosine_similarity(one.flatten(), other.phi[name].flatten(), dim=0) > 0.9, name


def test_killed_and_resumed_is_unbroken(tmp_path):
    whole, phi = learned_on("cuda", epochs=3, out=tmp_path / "whole")
    stop = {"callback": lambda epoch, _: epoch == 0}
    learned_on("cuda", epochs=3, out=tmp_path / "broken", **stop)
    again, resumed = learned_on("cuda", epochs=3, out=tmp_path / "broken")
    for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b)
    for name, one in phi.phi.items():
        torch.testing.assert_close(one, resumed.phi[name])


@pytest.mark.parametrize("where", ["cpu", "cuda"])
def test_phi_of_another_device_goes_where_the_weights_are(where):
    net = small_net(dtype=torch.float32).cuda()
    prior = Prior.constant(net, 1.0).to(where)
    centred = prior.centred({name: w.detach().to(where) for name, w in net.named_parameters()})
    before = copy.deepcopy(net.state_dict())
    x, _, y = source(1)[0]
    fit = FitConfig(lr=1e-3, device="cuda", quiet=True)
    train_with_prior(net, [(x, y)], F.mse_loss, centred, fit=fit)
    assert float(centred.penalty(net).detach()) > 0
    assert any(not torch.equal(before[name], w) for name, w in net.state_dict().items())


@pytest.mark.parametrize("settings", [{}, {"capturable": True}, {"fused": True}])
def test_adams_inner_step_reads_the_state_of_any_adam(settings):
    student, teacher = (small_net(c, s, torch.float32).cuda() for c, s in ((3, 0), (1, 7)))
    batch = tuple(part.cuda() for part in source(1)[0])
    distiller = Distiller(student, teacher, batch, PAIRS)
    adam = torch.optim.Adam(distiller.parameters(), 1e-3, **settings)
    learner = PriorLearner(distiller, MetaConfig(alpha=1.0, beta=1.0, inner_optimizer="adam"))
    for _ in range(2):
        losses = distiller(batch)
        learner.backward(batch, losses, adam)
        adam.step()
        adam.zero_grad()
    assert learner.prior.rms() > 0


def test_dropout_draws_the_same_with_and_without_the_learner():
    def trained(with_learner):
        torch.manual_seed(0)
        student = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 2)).cuda()
        teacher = nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 2)).cuda()
        x, depth, y = (torch.randn(8, n, device="cuda") for n in (4, 3, 2))
        distiller = Distiller(student, teacher, (x, depth, y), [("0", "0")])
        learner = PriorLearner(distiller, MetaConfig(alpha=1e-3, beta=1.0))
        sgd = torch.optim.SGD(distiller.parameters(), 1e-2)
        for _ in range(4):
            losses = distiller((x, depth, y))
            if with_learner:
                learner.update((x, depth, y), losses)
            sgd.zero_grad()
            sum(losses.values()).backward()
            sgd.step()
        return student

    for a, b in zip(trained(True).parameters(), trained(False).parameters(), strict=True):
        torch.testing.assert_close(a, b)
