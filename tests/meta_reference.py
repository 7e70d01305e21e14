"""The meta-gradient's reference: G written as its equations, and the learner's own gradient."""

from functools import partial

import torch

from cmkg.batch import Batch
from cmkg.distillation.distiller import Distiller
from cmkg.distillation.features import FeatureTap
from cmkg.distillation.losses import distillation_loss, regression_loss
from cmkg.prior.learner import MetaConfig, PriorLearner
from cmkg.prior.prior import Prior
from cmkg.training.step import take_step
from tests.conftest import LAYERS, small_net

ALPHA = 0.003


def random_prior(net, p=2, centre=None):
    prior = Prior.constant(net, 0.0, p, centre=centre)
    generator = torch.Generator().manual_seed(5)
    for name, t in prior.phi.items():
        prior.phi[name] = torch.randn(t.shape, generator=generator, dtype=torch.float64)
    return prior


def parts(p, centred=False):
    student, teacher = small_net(), small_net(channels=1, seed=7)
    centre = dict(small_net(seed=2).named_parameters()) if centred else None
    prior = random_prior(student, p, centre)
    return student, FeatureTap(student, LAYERS), teacher, FeatureTap(teacher, LAYERS), prior


def distiller_of(student, teacher, attention_weight=3.0, **more):
    criterion = partial(distillation_loss, attention_weight=attention_weight)
    settings = {"pairs": [(name, name) for name in LAYERS], "criterion": criterion}
    return Distiller(student, teacher, **settings | more)


def distil_step(distiller, optimizer, batch, priors=(), **settings):
    """One step on the distiller's losses; moves phi of the priors, too."""
    learn = None
    if priors:
        exponents = tuple(prior.p for prior in priors)
        learner = PriorLearner(distiller, MetaConfig(exponents, **settings), priors)
        learn = partial(learner.backward, Batch(*batch), optimizer=optimizer)
    return take_step(distiller.student, optimizer, lambda: distiller(Batch(*batch)), learn=learn)


def closed_form(student, teacher, prior, batch, alpha=ALPHA, **settings):
    """dG/dphi, read off phi with beta = 1 and a student that does not move."""
    before = {n: t.clone() for n, t in prior.phi.items()}
    still = torch.optim.SGD(student.parameters(), 0.0)
    distiller = distiller_of(student, teacher)
    distil_step(distiller, still, batch, [prior], alpha=alpha, beta=1.0, **settings)
    return {n: before[n] - t for n, t in prior.phi.items()}


def losses(student_tap, teacher, teacher_tap, batch):
    """G and L_REG as functions of a callable net, in float64 throughout."""
    x, x_superior, y = batch
    if teacher is None:
        return (lambda net: regression_loss(net(x), y),) * 2
    teacher.eval()
    teacher(x_superior)
    maps = [m.detach() for m in teacher_tap.maps]

    def unit(q):
        a = q.square().sum(1).flatten(1)
        return a / a.norm(dim=1, keepdim=True)

    def G(net):
        reg = regression_loss(net(x), y)
        act = (student_tap.maps[-1] - maps[-1]).square().flatten(1).sum(1).mean()
        att = sum(
            (unit(s) - unit(t)).square().sum(1).mean()
            for s, t in zip(student_tap.maps, maps, strict=False)
        )
        return reg + act + 3.0 * att

    return (lambda net: regression_loss(net(x), y)), G


def relative(a, b):
    a, b = (torch.cat([t.flatten() for t in v.values()]) for v in (a, b))
    return float((a - b).norm() / b.norm())
