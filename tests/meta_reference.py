"""The meta-gradient's reference: G written as its equations, and the step's own gradient."""

import torch

from cmkg.features import FeatureTap
from cmkg.losses import regression_loss
from cmkg.steps import meta_step
from tests.conftest import LAYERS, small_net
from tests.test_prior import random_prior

ALPHA = 0.003


def parts(p, centred=False):
    student, teacher = small_net(), small_net(channels=1, seed=7)
    centre = dict(small_net(seed=2).named_parameters()) if centred else None
    prior = random_prior(student, p, centre)
    return student, FeatureTap(student, LAYERS), teacher, FeatureTap(teacher, LAYERS), prior


def closed_form(student, tap, teacher, teacher_tap, prior, batch, alpha=ALPHA, **options):
    """The step's own dG/dphi, read off phi with beta = 1 and a student that does not move."""
    before = {n: t.clone() for n, t in prior.phi.items()}
    x, x_superior, y = batch
    meta_step(
        student,
        tap,
        teacher,
        teacher_tap,
        torch.optim.SGD(student.parameters(), 0.0),
        [prior],
        x,
        x_superior,
        y,
        alpha=alpha,
        beta=1.0,
        attention_weight=3.0,
        **options,
    )
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
