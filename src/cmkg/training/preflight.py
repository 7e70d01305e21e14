"""Predicts from a short run whether distillation, transfer and the prior are likely to help.

`preflight(...)` takes any networks and data. Each verdict is a sentence with its reason; on
synthetic problems with known answers the verdicts are correct (tests/training/test_preflight.py). A
short run is a hint, not a result.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor, nn

from ..batch import SOURCE_FIELDS, Fields, labelled_only
from ..containers import count_samples, tensors_of
from ..distillation.criteria import OutputKind
from ..distillation.features import FeatureTap
from ..distillation.losses import Criterion, Loss, as_feature_map
from ..distillation.pairing import Pairs, pair_layers
from ..errors import InputError
from ..modules import call_model, preserve_modes
from ..prior.learner import MetaConfig
from ..prior.prior import Prior
from .calls import Pairs as AnyPairs
from .calls import distill, learn_prior, train_with_prior
from .fit import FitConfig
from .shared_information import shared_information
from .verdicts import Report, judge_numbers

Batches = Iterable[Any]
Error = Callable[[Any, Any], Any]


# ---- one look at a network -----------------------------------------------------------------------
@torch.no_grad()
def measure_error(model: nn.Module, batches: Batches, fields: Fields, error: Error) -> float:
    """Returns the mean error over the labeled samples of batches, in eval mode.

    Raises:
        InputError: If no sample has a label.
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
    """Returns rows (N, d), (N, e), (N, f) from one pass over the data.

    They are the student's and teacher's last tapped maps, averaged over places, and the targets.
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
            labels.append([tensor.cpu() for tensor in tensors_of(part.target)])
    parts = [torch.cat(part) for part in zip(*labels, strict=True)]
    return torch.cat(mine), torch.cat(theirs), torch.cat([label_rows(p) for p in parts], 1)


def _pool(features: Tensor) -> Tensor:
    return as_feature_map(features).float().mean((2, 3)).cpu()


def label_rows(y: Tensor) -> Tensor:
    """Returns targets as rows of numbers, with classes one-hot."""
    if y.is_floating_point():
        return y.flatten(1)
    return torch.nn.functional.one_hot(y.long()).double().flatten(1)


# ---- the short run -------------------------------------------------------------------------------
class Split(NamedTuple):
    """Batches for training, and separate ones for measuring the error."""

    train: Batches
    test: Batches


def preflight(
    make_student: Callable[[], nn.Module],
    make_teacher: Callable[[], nn.Module],
    source: Split,
    target: Split,
    loss: Loss,
    error: Error,
    *,
    fields: Fields = SOURCE_FIELDS,
    target_fields: Fields | None = None,
    fit: FitConfig | None = None,
    meta: MetaConfig | None = None,
    sigmas: Sequence[float] = (1e-4, 1e-3, 1e-2),
    pairs: Pairs | None = None,
    attention_weight: float = 1.0,
    outputs: OutputKind | Criterion | tuple[AnyPairs, Criterion] | None = None,
) -> Report:
    """Trains a teacher, students and a prior briefly, and reports what is likely to help.

    Args:
        make_student, make_teacher: Functions that make new networks, identical each time.
        source: Batches with both modalities.
        target: Batches with only the weak modality.
        loss: Maps (prediction, target) to a scalar.
        error: Maps (prediction, target) to the metric of interest; lower is better.
        fields, target_fields: Which part of a batch is which; target_fields of None uses the
            source's.
        fit: Settings of each training; None is three epochs of Adam(1e-3).
        meta: Settings for the prior; None is alpha 1e-2, beta 1, unit-free.
        sigmas: Prior strengths to try. They are selected on the target's test set, so the result
            is a hint, not a score.
        pairs, attention_weight: See training.distill.
        outputs: How to compare the networks' outputs, a kind of OutputLoss or (pairs, criterion).
            The report then also estimates how much of the gap to the teacher its outputs on
            unlabeled pairs (Fields(labelled=)) could close.
    """
    how = _how_to_compare(outputs)
    weak = replace(fields, teacher=None)
    superior = replace(fields, student=fields.teacher, teacher=None)
    on_target = target_fields or weak
    fit = fit or FitConfig(epochs=3, lr=1e-3)
    meta = meta or MetaConfig(alpha=1e-2, beta=1.0, unit_free=True)
    theta_0, teacher, student = make_student(), make_teacher(), make_student()
    seed = torch.initial_seed()
    with _same_draws(seed):
        train_with_prior(teacher, source.train, loss, fields=superior, fit=fit)
    with _same_draws(seed):
        train_with_prior(student, source.train, loss, fields=weak, fit=fit)
    numbers = look_at_source(student, teacher, source, fields, error, pairs)
    continued, distilled = copy.deepcopy(student), copy.deepcopy(student)
    train_with_prior(continued, source.train, loss, fields=weak, fit=fit)
    phi = learn_prior(
        distilled,
        teacher,
        source.train,
        loss,
        meta=meta,
        pairs=pairs or "auto",
        fields=fields,
        attention_weight=attention_weight,
        theta_0=theta_0,
        fit=fit,
    ).prior

    def error_on_target(start: nn.Module, prior: Prior | None = None) -> float:
        model = copy.deepcopy(start)
        train_with_prior(model, target.train, loss, prior, fields=on_target, fit=fit)
        return measure_error(model, target.test, on_target, error)

    if how:
        taught = copy.deepcopy(theta_0)
        with _same_draws(seed):
            distill(taught, teacher, source.train, loss, fields=fields, fit=fit, **how)
        numbers |= {
            "taught": measure_error(taught, source.test, weak, error),
            "student_on_its_labels": measure_error(student, source.train, weak, error),
        }
    noise_ratios = torch.tensor(list(phi.signal_to_noise().values()))
    numbers |= {
        "continued": measure_error(continued, source.test, weak, error),
        "distilled": measure_error(distilled, source.test, weak, error),
        "phi_over_noise": float(noise_ratios.median()),
        "target_none": error_on_target(theta_0),
        "target_fine_tuned": error_on_target(distilled),
        "target_l2": min(error_on_target(theta_0, Prior.constant(theta_0, s)) for s in sigmas),
        "target_prior": min(error_on_target(theta_0, phi.with_rms(s)) for s in sigmas),
    }
    return Report(numbers, judge_numbers(numbers))


def _how_to_compare(outputs: Any) -> dict[str, Any]:
    """Returns the settings of `distill` for preflight's outputs=; empty for None."""
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
    """Gives compared trainings the same torch random stream, and restores the caller's."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def look_at_source(
    student: nn.Module,
    teacher: nn.Module,
    source: Split,
    fields: Fields,
    error: Error,
    pairs: Pairs | None,
) -> dict[str, float]:
    """Measures the teacher-student gap, and the information shared by features and targets."""
    device = next(student.parameters()).device
    first = fields(next(iter(source.train)), device)
    inputs = first.student_input, first.teacher_input
    mine, theirs = (pairs or pair_layers(student, teacher, *inputs))[-1]
    tap, teacher_tap = FeatureTap(student, [mine]), FeatureTap(teacher, [theirs])
    weak = replace(fields, teacher=None)
    superior = replace(fields, student=fields.teacher, teacher=None)
    student_error = measure_error(student, source.test, weak, error)
    teacher_error = measure_error(teacher, source.test, superior, error)
    s, t, y = pooled_features(student, tap, teacher, teacher_tap, source.test, fields)
    tap.close()
    teacher_tap.close()
    return {
        "student": student_error,
        "teacher": teacher_error,
        "information_teacher_student": shared_information(s, t),
        "information_student_label": shared_information(s, y),
    }
