"""Verdicts on made problems whose answer is known by construction."""

from functools import cache

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cmkg.errors import InputError
from cmkg.training.calls import Fields
from cmkg.training.fit import FitConfig
from cmkg.training.preflight import Split, preflight
from cmkg.training.shared_information import shared_information
from cmkg.training.verdicts import Report, format_verdicts, judge_numbers


def test_information_of_gaussians_is_the_formulas_and_nothing_for_strangers():
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(600, 6, generator=g), torch.randn(600, 4, generator=g)
    assert shared_information(x, y) < 0.15
    for rho in (0.5, 0.8):
        z = rho * x[:, :2] + (1 - rho**2) ** 0.5 * torch.randn(600, 2, generator=g)
        expected = -torch.tensor(1 - rho**2).log().item()  # two directions
        assert shared_information(x[:, :2], z) == pytest.approx(expected, rel=0.15)
    turn = torch.linalg.qr(torch.randn(2, 2, generator=g))[0]
    assert shared_information(x[:, :2], z @ turn) == pytest.approx(
        shared_information(x[:, :2], z), rel=0.02
    )


class Shuffled:
    def __init__(self, batches):
        self.whole = {k: torch.cat([b[k] for b in batches]) for k in batches[0]}

    def __iter__(self):
        for rows in torch.randperm(len(self.whole["y"])).split(32):
            yield {k: v[rows] for k, v in self.whole.items()}


# ---- made problems -------------------------------------------------------------------------------
def net(inputs):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(inputs, 32), nn.Tanh(), nn.Linear(32, 16), nn.Tanh(), nn.Linear(16, 1)
    )


def problem(kind, n, seed):
    """Batches {"weak", "superior", "y"}. The truth is a function of six hidden numbers, the label
    its noisy sum.

    shared: the teacher sees the numbers, the student a noisy view of all of them. same: both see
    the same noisy view. hidden: the teacher sees three numbers that make up most of the label
    and of which the student sees nothing.
    """
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(n, 6, generator=g)

    def noise(scale, width=6):
        return scale * torch.randn(n, width, generator=g)

    weights = torch.tensor([1.0, -1.0, 1.0, 0.5, -0.5, 0.5])
    if kind == "hidden":
        y = 3 * z[:, 3:].sum(1, keepdim=True) + z[:, :1]
        weak, superior = z[:, :3] + noise(0.1, 3), z[:, 3:]
    else:
        y = (z * weights).sum(1, keepdim=True) + noise(1.0, 1)
        weak, superior = z + noise(0.8), z + (noise(0.0) if kind == "shared" else noise(0.8))
        superior = weak.clone() if kind == "same" else superior
    return [
        {"weak": weak[i : i + 32], "superior": superior[i : i + 32], "y": y[i : i + 32]}
        for i in range(0, n, 32)
    ]


def target_of(kind, n, seed, related):
    """Few samples without the superior view, of the same task or of one that has nothing to do
    with it."""
    batches = problem(kind, n, seed)
    if not related:
        generator = torch.Generator().manual_seed(seed + 9)
        for b in batches:
            b["y"] = torch.randn(b["y"].shape, generator=generator) * 3
    return [{"weak": b["weak"], "y": b["y"]} for b in batches]


@cache
def verdict_on(kind, related=True):
    width = {"hidden": 3}.get(kind, 6)
    return preflight(
        lambda: net(width),
        lambda: net(width),
        Split(problem(kind, 640, 0), Shuffled(problem(kind, 640, 1))),
        Split(target_of(kind, 64, 2, related), target_of(kind, 640, 3, related)),
        F.mse_loss,
        F.mse_loss,
        fields=Fields("weak", "superior", "y"),
        fit=FitConfig(epochs=12, lr=6e-3),
        pairs=[("1", "1"), ("3", "3")],
    )


@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "expected", "reason"),
    [
        ("shared", True, "can see some of it"),
        ("same", False, "nothing to distil"),
        ("hidden", False, "not in the student's view"),
    ],
)
def test_the_verdict_on_distillation_is_the_constructions(kind, expected, reason):
    report = verdict_on(kind)
    yes, why = report.verdicts["distillation"]
    assert yes == expected, format_verdicts(report)
    assert reason in why, format_verdicts(report)


@pytest.mark.long
def test_the_verdict_on_transfer_is_the_constructions():
    assert verdict_on("shared").verdicts["transfer"][0]
    assert not verdict_on("shared", related=False).verdicts["transfer"][0]


# What preflight measures where all three would help but for the prior's noise.
NUMBERS = {
    "student": 1.0,
    "teacher": 0.5,
    "information_teacher_student": 2.0,
    "information_student_label": 1.0,
    "continued": 1.0,
    "distilled": 0.9,
    "target_none": 1.0,
    "target_fine_tuned": 0.8,
    "target_l2": 0.9,
    "target_prior": 0.5,
    "phi_over_noise": 1.1,
    "student_on_its_labels": 0.3,
    "taught": 0.7,
}


@pytest.mark.parametrize(
    ("question", "changes", "likely", "reason"),
    [
        ("distillation", {}, True, "can see some of it"),
        ("distillation", {"teacher": 0.99}, False, "nothing to distil"),
        (
            "distillation",
            {"information_teacher_student": 0.9},
            False,
            "not in the student's view",
        ),
        ("transfer", {}, True, "from 1 to 0.8"),
        ("transfer", {"target_fine_tuned": 1.1}, False, "from 1 to 1.1"),
        ("pairs without labels", {}, True, "labels are scarce and the teacher knows more"),
        ("pairs without labels", {"student_on_its_labels": 0.95}, False, "are not scarce"),
        ("pairs without labels", {"teacher": 0.99}, False, "what the labels do not say"),
        ("pairs without labels", {"taught": 1.0}, False, "do not reach the student"),
    ],
)
def test_verdicts_follow_from_the_numbers(question, changes, likely, reason):
    verdict = judge_numbers(NUMBERS | changes)[question]
    assert verdict.likely == likely
    assert reason in verdict.reason


def test_a_short_run_measures_every_number():
    shared = problem("shared", 64, 0)
    report = preflight(
        lambda: net(6),
        lambda: net(6),
        Split(shared, shared),
        Split(target_of("shared", 64, 2, related=True), target_of("shared", 64, 3, related=True)),
        F.mse_loss,
        F.mse_loss,
        fields=Fields("weak", "superior", "y"),
        fit=FitConfig(epochs=2),
        sigmas=(1e-3,),
        pairs=[("1", "1")],
        outputs="numbers",
    )
    assert set(report.numbers) == set(NUMBERS)
    assert set(report.verdicts) == set(judge_numbers(NUMBERS))


def test_a_prior_within_its_noise_is_not_recommended():
    numbers = NUMBERS
    assert not judge_numbers(numbers)["prior"][0]
    assert judge_numbers(numbers | {"phi_over_noise": 9.0})["prior"][0]
    assert not judge_numbers(numbers | {"phi_over_noise": 9.0, "target_prior": 0.89})["prior"][0]
    assert "not likely to help: phi is 1.1 times its noise" in format_verdicts(
        Report(numbers, judge_numbers(numbers))
    )


def report_on_pairs(labels, count=640, same=False):
    """Six numbers, which the student sees mixed into thirty noisy ones: it needs many labels, the
    teacher few; `labels` of the pairs have one."""
    g = torch.Generator().manual_seed(5)
    weights = torch.tensor([[1.0, -1.0, 1.0, 0.5, -0.5, 0.5]]).T

    mixed = torch.randn(6, 30, generator=g)

    def drawn(count, labelled):
        z = torch.randn(count, 6, generator=g)
        weak = z @ mixed + 0.3 * torch.randn(count, 30, generator=g)
        y = z @ weights + 0.2 * torch.randn(count, 1, generator=g)
        parts = {"weak": weak, "superior": weak if same else z, "y": y}
        parts["labelled"] = torch.arange(count) < labelled
        return Shuffled([parts])

    few = {"weak": torch.randn(32, 30), "y": torch.randn(32, 1)}
    return preflight(
        lambda: net(30),
        lambda: net(30 if same else 6),
        Split(drawn(count, labels), drawn(640, 640)),
        Split([few], [few]),
        F.mse_loss,
        F.mse_loss,
        fields=Fields("weak", "superior", "y", "labelled"),
        target_fields=Fields("weak", None, "y"),
        fit=FitConfig(epochs=12, lr=6e-3),
        sigmas=(1e-3,),
        pairs=[("1", "1"), ("3", "3")],
        outputs="numbers",
    )


@pytest.mark.long
@pytest.mark.parametrize(
    ("how", "expected", "reason"),
    [
        ({"labels": 40}, True, "labels are scarce and the teacher knows more"),
        ({"labels": 1280, "count": 1280}, False, "labels are not scarce"),
        ({"labels": 40, "same": True}, False, "does not know what the labels do not"),
    ],
)
def test_the_verdict_on_pairs_without_labels_is_the_constructions(how, expected, reason):
    report = report_on_pairs(**how)
    yes, why = report.verdicts["pairs without labels"]
    assert yes == expected, format_verdicts(report)
    assert reason in why, format_verdicts(report)


def test_outputs_that_cannot_be_compared_are_refused_before_anything_is_trained(unchecked):
    with pytest.raises(InputError, match='outputs: expected "classes", "numbers", a criterion'):
        preflight(None, None, Split([], []), Split([], []), None, None, outputs="clases")
