"""Will it help me? A short run says whether there is anything to distil, and whether it carries.

For any networks and data: `preflight(...)`. The verdicts are plain sentences with their reasons; on
made problems whose answer is known by construction they are right (tests/test_forecast.py). A
short run is a hint, not a result.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..batch import SOURCE_FIELDS, Fields, count_samples, labelled_only, tensors_of
from ..distillation.criteria import OutputKind
from ..distillation.distiller import Criterion, Loss
from ..distillation.features import FeatureTap
from ..distillation.losses import as_picture
from ..distillation.pairing import Pairs, pair_layers
from ..errors import InputError
from ..modules import call_model, preserve_modes
from ..prior.learner import MetaConfig
from ..prior.prior import Prior
from .calls import Pairs as AnyPairs
from .calls import distill, learn_prior, train_with_prior
from .fit import FitConfig

GAP = 0.05  # a teacher at least this much better than the student, relative to the student's error
SCARCE = 0.25  # labels are scarce where a student is so much better on them than on others
SHARE = 0.05  # nats that the teacher must share more than the label: noise differs by less
GAIN = 0.03  # differences of short runs below this share count as none
NOISE = 2.0  # phi must be this many times its noise

Batches = Iterable[Any]
Error = Callable[[Any, Any], Any]


class Verdict(NamedTuple):
    """An answer and why."""

    likely: bool
    reason: str


@dataclass(frozen=True)
class Report:
    """What a short run says.

    numbers: errors, shared information and phi's size. verdicts: on "distillation", "transfer" and
    "prior"; on "pairs without labels" where outputs= was given.
    """

    numbers: dict[str, float]
    verdicts: dict[str, Verdict]


# ---- how much two views share --------------------------------------------------------------------
def standardise(a: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Columns of mean zero and unit variance."""
    return (a - a.mean(0)) / a.std(0, correction=0).clamp_min(1e-6)


def shared_information(
    a: Float[Tensor, "n d"],
    b: Float[Tensor, "n e"],
    k: int = 8,
    ridge: float = 0.1,
    folds: int = 4,
) -> float:
    """Estimate of I(a; b) in nats, of paired rows: Gaussian, over k canonical directions.

    The directions are found on some of the rows and their correlations measured on the others, so
    that rows without anything in common share about 0, however few they are (a canonical
    correlation itself would not).

    >>> import torch
    >>> x, noise = torch.randn(2, 4000, 1, generator=torch.Generator().manual_seed(0))
    >>> round(shared_information(x, x + 0.75 * noise), 1)
    0.5
    """
    a, b = principal(standardise(a.double()), k), principal(standardise(b.double()), k)
    total = 0.0
    for fold in range(folds):
        held = torch.arange(len(a)) % folds == fold
        total += _information_of(a[~held], b[~held], a[held], b[held], ridge)
    return total / folds


def principal(a: Float[Tensor, "n d"], k: int) -> Float[Tensor, "n k2"]:
    """Rows in their first k principal components, each of unit variance."""
    U, S, _ = torch.linalg.svd(a - a.mean(0), full_matrices=False)
    keep = min(k, int((1e-6 * S[0] < S).sum()))
    return U[:, :keep] * len(a) ** 0.5


def _information_of(a: Tensor, b: Tensor, a_new: Tensor, b_new: Tensor, ridge: float) -> float:
    whiten_a, whiten_b = _whitening(a, ridge), _whitening(b, ridge)
    U, _, Vt = torch.linalg.svd(whiten_a.T @ a.T @ b @ whiten_b / len(a))
    n = min(len(U), len(Vt))
    left = a_new @ whiten_a @ U[:, :n]
    right = b_new @ whiten_b @ Vt.T[:, :n]
    correlation = (standardise(left) * standardise(right)).mean(0).clamp(0, 0.999)
    return float(-0.5 * (1 - correlation**2).log().sum())


def _whitening(a: Tensor, ridge: float) -> Tensor:
    covariance = a.T @ a / len(a) + ridge * torch.eye(a.shape[1], dtype=a.dtype)
    return torch.linalg.inv(torch.linalg.cholesky(covariance)).T


# ---- one look at a network -----------------------------------------------------------------------
@torch.no_grad()
def measure_error(model: nn.Module, batches: Batches, fields: Fields, error: Error) -> float:
    """Mean error over the labelled samples of batches, in eval mode.

    Raises:
        InputError: none has a label.
    """
    device = next(model.parameters()).device
    total, count = 0.0, 0
    with preserve_modes(model):
        model.eval()
        for batch in batches:
            part = labelled_only(fields(batch, device))
            if part is None:
                continue
            samples = count_samples(part.student_input)
            total += samples * float(error(call_model(model, part.student_input), part.target))
            count += samples
    if not count:
        raise InputError("no sample has a label: expected some to measure an error on")
    return total / count


@torch.no_grad()
def pooled_features(
    student: nn.Module,
    tap: FeatureTap,
    teacher: nn.Module,
    teacher_tap: FeatureTap,
    batches: Batches,
    fields: Fields,
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows (N, d), (N, e), (N, f) of one pass over the data.

    The student's and the teacher's last tapped maps, averaged over places, and the targets.
    """
    device = next(student.parameters()).device
    mine, theirs, labels = [], [], []
    with preserve_modes(student, teacher):
        student.eval()
        teacher.eval()
        for batch in batches:
            part = labelled_only(fields(batch, device))
            if part is None:
                continue
            call_model(student, part.student_input)
            mine.append(_pool(tap.maps[-1]))
            call_model(teacher, part.teacher_input)
            theirs.append(_pool(teacher_tap.maps[-1]))
            labels.append([one.cpu() for one in tensors_of(part.target)])
    parts = [torch.cat(part) for part in zip(*labels, strict=True)]
    return torch.cat(mine), torch.cat(theirs), torch.cat([label_rows(p) for p in parts], 1)


def _pool(features: Tensor) -> Tensor:
    return as_picture(features).float().mean((2, 3)).cpu()


def label_rows(y: Tensor) -> Tensor:
    """Targets as rows of numbers; classes as one-hot."""
    if y.is_floating_point():
        return y.flatten(1)
    return torch.nn.functional.one_hot(y.long()).double().flatten(1)


# ---- the short run -------------------------------------------------------------------------------
def preflight(
    make_student: Callable[[], nn.Module],
    make_teacher: Callable[[], nn.Module],
    source: Batches,
    source_test: Batches,
    target: Batches,
    target_test: Batches,
    loss: Loss,
    error: Error,
    *,
    fields: Fields = SOURCE_FIELDS,
    target_fields: Fields | None = None,
    epochs: int = 3,
    lr: float = 1e-3,
    alpha: float = 1e-2,
    beta: float = 1.0,
    sigmas: Sequence[float] = (1e-4, 1e-3, 1e-2),
    pairs: Pairs | None = None,
    attention_weight: float = 1.0,
    outputs: OutputKind | Criterion | tuple[AnyPairs, Criterion] | None = None,
) -> Report:
    """Trains a teacher, students and a prior shortly, and says what is likely to help.

    What must be known of both datasets, and settings with defaults.

    Args:
        make_student, make_teacher: new networks, the same each time.
        source, source_test, target, target_test: batches of each set.
        loss: (prediction, target) to a scalar.
        error: (prediction, target) to the number that counts, the lower the better.
        fields, target_fields: which part of a batch is which; None takes the source's.
        epochs, lr: of each training.
        alpha, beta: see training.learn_prior.
        sigmas: strengths tried; target_test is looked at for each alike: a hint, not a score.
        pairs, attention_weight: see training.distill.
        outputs: how the networks' outputs are compared, a kind of OutputLoss or (pairs, criterion):
            then it is also asked what the teacher's answers on pairs without labels
            (Fields(labelled=)) could close of the gap to the teacher.
    """
    how = _how_to_compare(outputs)
    own = replace(fields, teacher=None)
    superior = replace(fields, student=fields.teacher, teacher=None)
    on_target = target_fields or own
    fit = FitConfig(epochs=epochs, lr=lr)
    theta_0, teacher, student = make_student(), make_teacher(), make_student()
    seed = torch.initial_seed()
    with _same_draws(seed):
        train_with_prior(teacher, source, loss, fields=superior, fit=fit)
    with _same_draws(seed):
        train_with_prior(student, source, loss, fields=own, fit=fit)
    numbers = look_at_source(student, teacher, source, source_test, fields, error, pairs)
    continued, distilled = copy.deepcopy(student), copy.deepcopy(student)
    train_with_prior(continued, source, loss, fields=own, fit=fit)
    phi = learn_prior(
        distilled,
        teacher,
        source,
        loss,
        meta=MetaConfig(alpha=alpha, beta=beta, unit_free=True),
        pairs=pairs or "auto",
        fields=fields,
        attention_weight=attention_weight,
        theta_0=theta_0,
        fit=fit,
    ).prior

    def error_on_target(start: nn.Module, prior: Prior | None = None) -> float:
        model = copy.deepcopy(start)
        train_with_prior(model, target, loss, prior, fields=on_target, fit=fit)
        return measure_error(model, target_test, on_target, error)

    if how:
        taught = copy.deepcopy(theta_0)
        with _same_draws(seed):
            distill(taught, teacher, source, loss, fields=fields, fit=fit, **how)
        numbers |= {
            "taught": measure_error(taught, source_test, own, error),
            "student_on_its_labels": measure_error(student, source, own, error),
        }
    noise_ratios = torch.tensor(list(phi.signal_to_noise().values()))
    numbers |= {
        "continued": measure_error(continued, source_test, own, error),
        "distilled": measure_error(distilled, source_test, own, error),
        "phi_over_noise": float(noise_ratios.median()),
        "target_none": error_on_target(theta_0),
        "target_fine_tuned": error_on_target(distilled),
        "target_l2": min(error_on_target(theta_0, Prior.constant(theta_0, s)) for s in sigmas),
        "target_prior": min(error_on_target(theta_0, phi.with_rms(s)) for s in sigmas),
    }
    return Report(numbers, judge(numbers))


def _how_to_compare(outputs: Any) -> dict[str, Any]:
    """Settings of `distill` for preflight's outputs=; empty for None."""
    if outputs is None:
        return {}
    if isinstance(outputs, tuple) and len(outputs) == 2:
        return {"pairs": outputs[0], "criterion": outputs[1]}
    if outputs in get_args(OutputKind) or callable(outputs):
        return {"criterion": outputs}
    raise InputError(
        'outputs: expected "classes", "numbers", a criterion, or (pairs, criterion), got '
        f"{outputs!r:.60}"
    )


@contextmanager
def _same_draws(seed: int) -> Iterator[None]:
    """Trainings that are compared draw alike from torch's stream; the caller's is put back."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def look_at_source(
    student: nn.Module,
    teacher: nn.Module,
    source: Batches,
    source_test: Batches,
    fields: Fields,
    error: Error,
    pairs: Pairs | None,
) -> dict[str, float]:
    """The gap between teacher and student, and what their features and the targets share."""
    device = next(student.parameters()).device
    first = fields(next(iter(source)), device)
    inputs = first.student_input, first.teacher_input
    mine, theirs = (pairs or pair_layers(student, teacher, *inputs))[-1]
    tap, teacher_tap = FeatureTap(student, [mine]), FeatureTap(teacher, [theirs])
    own = replace(fields, teacher=None)
    superior = replace(fields, student=fields.teacher, teacher=None)
    student_error = measure_error(student, source_test, own, error)
    teacher_error = measure_error(teacher, source_test, superior, error)
    s, t, y = pooled_features(student, tap, teacher, teacher_tap, source_test, fields)
    tap.close()
    teacher_tap.close()
    return {
        "student": student_error,
        "teacher": teacher_error,
        "information_teacher_student": shared_information(s, t),
        "information_student_label": shared_information(s, y),
    }


def judge(numbers: dict[str, float]) -> dict[str, Verdict]:
    """{question: verdict} of preflight's numbers."""
    return {
        "distillation": _judge_distillation(numbers),
        "transfer": _judge_transfer(numbers),
        "prior": _judge_prior(numbers),
    } | ({"pairs without labels": _judge_pairs(numbers)} if "taught" in numbers else {})


def _gain(before: float, after: float) -> float:
    return (before - after) / max(abs(before), 1e-12)


def _judge_distillation(n: dict[str, float]) -> Verdict:
    with_teacher, with_label = n["information_teacher_student"], n["information_student_label"]
    facts = (
        f"the teacher's error is {n['teacher']:.4g}, the student's {n['student']:.4g}; teacher and "
        f"student share {with_teacher:.2f} nats, student and label {with_label:.2f}"
    )
    if _gain(n["student"], n["teacher"]) < GAP:
        return Verdict(False, f"there is nothing to distil: {facts}")
    if with_teacher <= with_label + SHARE:
        return Verdict(
            False,
            f"what the teacher knows is not in the student's view: {facts} (the criterion asks for "
            "more with the teacher)",
        )
    return Verdict(
        True,
        f"the teacher knows more, and the student can see some of it: {facts}; in the short run "
        f"{n['continued']:.4g} -> {n['distilled']:.4g}",
    )


def _judge_transfer(n: dict[str, float]) -> Verdict:
    return Verdict(
        _gain(n["target_none"], n["target_fine_tuned"]) > GAIN,
        f"fine-tuning from the source changes the target's error from {n['target_none']:.4g} to "
        f"{n['target_fine_tuned']:.4g}",
    )


def _judge_prior(n: dict[str, float]) -> Verdict:
    better = _gain(n["target_l2"], n["target_prior"])
    return Verdict(
        n["phi_over_noise"] > NOISE and better > GAIN,
        f"phi is {n['phi_over_noise']:.1f} times its noise, and the prior changes the target's "
        f"error from {n['target_l2']:.4g} (tuned l2) to {n['target_prior']:.4g}",
    )


def _judge_pairs(n: dict[str, float]) -> Verdict:
    """Labels are scarce where a student is better on them than on others; then pairs can help."""
    student, teacher, taught = n["student"], n["teacher"], n["taught"]
    facts = (
        f"the student's error is {n['student_on_its_labels']:.4g} on its labelled samples and "
        f"{student:.4g} on others, the teacher's {teacher:.4g} there"
    )
    if _gain(student, teacher) < GAP:
        return Verdict(False, f"the teacher does not know what the labels do not say: {facts}")
    if _gain(student, n["student_on_its_labels"]) < SCARCE:
        return Verdict(False, f"labels are not scarce: {facts}")
    share = (student - taught) / (student - teacher)
    facts += (
        f"; taught by its answers on all pairs {taught:.4g}, {share:.0%} of the gap, for as many "
        "steps"
    )
    if _gain(student, taught) < GAIN:
        return Verdict(False, f"the teacher's answers do not reach the student: {facts}")
    return Verdict(True, f"labels are scarce and the teacher knows more: {facts}")


def format_verdicts(report: Report) -> str:
    """The verdicts as text."""
    questions = {
        "distillation": "distilling",
        "transfer": "starting from the source",
        "prior": "the learned prior instead of l2",
        "pairs without labels": "the teacher's answers on pairs without labels",
    }
    lines = []
    for name, verdict in report.verdicts.items():
        answer = "likely to help" if verdict.likely else "not likely to help"
        lines.append(f"{questions[name]}: {answer}: {verdict.reason}.")
    return "\n".join([*lines, "From a short run: a hint, not a result."])
