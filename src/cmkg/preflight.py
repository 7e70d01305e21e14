"""Will it help me? From a short run: is there anything to distil, can the student see it, does it
carry to the target?

For any networks and data: `preflight(...)`. The verdicts are plain sentences with their reasons;
on made problems whose answer is known by construction they are right (tests/test_preflight.py).
A short run is a hint, not a result.
"""

import copy

import torch

from .features import FeatureTap
from .losses import as_picture
from .pairing import pair_layers
from .prior import Prior
from .steps import called, modes_kept, teacher_maps
from .training import SOURCE_FIELDS, Fields, learn_prior, train_with_prior

GAP = 0.05  # a teacher at least this much better than the student, relative to the student's error
# nats that the teacher must share more than the label: estimates of nothing differ by less
SHARE = 0.05
GAIN = 0.03  # differences of short runs below this share count as none
NOISE = 2.0  # phi must be this many times its noise


# ---- how much two views share --------------------------------------------------------------------
def standardised(a):
    return (a - a.mean(0)) / a.std(0).clamp_min(1e-6)


def shared_information(a, b, k=8, ridge=0.1, folds=4):
    """Estimate of I(a; b) in nats, of rows a (N, d), b (N, e): Gaussian, over k canonical
    directions.

    The directions are found on some of the rows and their correlations measured on the others, so
    that rows without anything in common share about 0, however few they are (a canonical
    correlation itself would not).

    >>> import torch
    >>> x, noise = torch.randn(2, 4000, 1, generator=torch.Generator().manual_seed(0))
    >>> round(shared_information(x, x + 0.75 * noise), 1)
    0.5
    """
    a, b = (principal(standardised(t.double()), k) for t in (a, b))
    total = 0.0
    for fold in range(folds):
        held = torch.arange(len(a)) % folds == fold
        total += _information_of(a[~held], b[~held], a[held], b[held], ridge)
    return total / folds


def principal(a, k):
    """Rows in their first k principal components, each of unit variance."""
    U, S, _ = torch.linalg.svd(a - a.mean(0), full_matrices=False)
    keep = min(k, int((1e-6 * S[0] < S).sum()))
    return U[:, :keep] * len(a) ** 0.5


def _information_of(a, b, a_new, b_new, ridge):
    def whiten(t):
        return torch.linalg.inv(
            torch.linalg.cholesky(t.T @ t / len(t) + ridge * torch.eye(t.shape[1], dtype=t.dtype))
        ).T

    wa, wb = whiten(a), whiten(b)
    U, _, Vt = torch.linalg.svd(wa.T @ a.T @ b @ wb / len(a))
    n = min(len(U), len(Vt))
    left, right = a_new @ wa @ U[:, :n], b_new @ wb @ Vt.T[:, :n]
    correlation = (standardised(left) * standardised(right)).mean(0).clamp(0, 0.999)
    return float(-0.5 * (1 - correlation**2).log().sum())


# ---- one look at a network -----------------------------------------------------------------------
@torch.no_grad()
def measured(model, batches, fields, error):
    """Mean error over batches, in eval mode."""
    device, total, count = next(model.parameters()).device, 0.0, 0
    with modes_kept(model):
        model.eval()
        for batch in batches:
            x, _, y = fields(batch, device)
            total, count = total + len(y) * float(error(called(model, x), y)), count + len(y)
    return total / count


@torch.no_grad()
def seen_alike(student, tap, teacher, teacher_tap, batches, fields):
    """Rows (N, d), (N, e), (N, f) of one pass over batches: the student's and the teacher's last
    tapped maps, averaged over places, and the targets."""
    device, rows = next(student.parameters()).device, []
    with modes_kept(student, teacher):
        student.eval()
        for batch in batches:
            x, x_superior, y = fields(batch, device)
            called(student, x)
            maps = tap.maps[-1], teacher_maps(teacher, teacher_tap, x_superior)[-1]
            rows.append([as_picture(m).float().mean((2, 3)).cpu() for m in maps] + [y.cpu()])
    return [torch.cat(part) for part in zip(*rows, strict=True)]


def label_rows(y):
    """Targets as rows of numbers: classes as one-hot."""
    if y.is_floating_point():
        return y.flatten(1)
    return torch.nn.functional.one_hot(y.long()).double().flatten(1)


# ---- the short run -------------------------------------------------------------------------------
def preflight(
    make_student,
    make_teacher,
    source,
    source_test,
    target,
    target_test,
    loss,
    error,
    *,
    fields=SOURCE_FIELDS,
    target_fields=None,
    epochs=3,
    lr=1e-3,
    alpha=1e-2,
    beta=1.0,
    sigmas=(1e-4, 1e-3, 1e-2),
    layers=None,
    attention_weight=1.0,
):
    """Returns {"numbers": {...}, "verdicts": {"distillation" | "transfer" | "prior": (yes or no,
    reason)}}.

    make_student(), make_teacher(): new networks, the same each time. loss, error: functions
    (prediction, target) -> a number; error is what counts, the lower the better. target_test is
    looked at for every strength alike: a hint, not a score.
    """
    target_fields = target_fields or Fields(fields.student, None, fields.target)
    superior = Fields(fields.teacher, None, fields.target)
    theta_0, teacher, student = make_student(), make_teacher(), make_student()
    train_with_prior(teacher, source, loss, fields=superior, epochs=epochs, lr=lr)
    train_with_prior(
        student,
        source,
        loss,
        fields=Fields(fields.student, None, fields.target),
        epochs=epochs,
        lr=lr,
    )
    numbers = look_at_source(student, teacher, source, source_test, fields, superior, error, layers)
    continued, distilled = copy.deepcopy(student), copy.deepcopy(student)
    train_with_prior(
        continued,
        source,
        loss,
        fields=Fields(fields.student, None, fields.target),
        epochs=epochs,
        lr=lr,
    )
    (phi,) = learn_prior(
        distilled,
        teacher,
        source,
        loss,
        fields=fields,
        epochs=epochs,
        lr=lr,
        alpha=alpha,
        beta=beta,
        layers=layers,
        attention_weight=attention_weight,
        unit_free=True,
        theta_0=theta_0,
    )
    own = Fields(fields.student, None, fields.target)
    numbers |= {
        "continued": measured(continued, source_test, own, error),
        "distilled": measured(distilled, source_test, own, error),
        "phi_over_noise": float(torch.tensor(list(phi.signal_to_noise().values())).median()),
    }

    def on_target(start, prior=None):
        model = copy.deepcopy(start)
        train_with_prior(model, target, loss, prior, fields=target_fields, epochs=epochs, lr=lr)
        return measured(model, target_test, target_fields, error)

    numbers |= {
        "target_none": on_target(theta_0),
        "target_fine_tuned": on_target(distilled),
        "target_l2": min(on_target(theta_0, Prior.constant(theta_0, s)) for s in sigmas),
        "target_prior": min(on_target(theta_0, phi.with_rms(s)) for s in sigmas),
    }
    return {"numbers": numbers, "verdicts": verdicts(numbers)}


def look_at_source(student, teacher, source, source_test, fields, superior, error, layers):
    """The gap between teacher and student, and what their deepest features and the targets
    share."""
    device = next(student.parameters()).device
    x, x_superior, _ = fields(next(iter(source)), device)
    mine, theirs = (layers or pair_layers(student, teacher, x, x_superior))[-1]
    tap, teacher_tap = FeatureTap(student, [mine]), FeatureTap(teacher, [theirs])
    student_error = measured(
        student, source_test, Fields(fields.student, None, fields.target), error
    )
    teacher_error = measured(teacher, source_test, superior, error)
    s, t, y = seen_alike(student, tap, teacher, teacher_tap, source_test, fields)
    tap.close()
    teacher_tap.close()
    return {
        "student": student_error,
        "teacher": teacher_error,
        "information_teacher_student": shared_information(s, t),
        "information_student_label": shared_information(s, label_rows(y)),
    }


def verdicts(n):
    """{question: (yes or no, reason)} of preflight's numbers."""

    def gain(before, after):
        return (before - after) / max(abs(before), 1e-12)

    gap, share = (
        gain(n["student"], n["teacher"]),
        (n["information_teacher_student"], n["information_student_label"]),
    )
    facts = (
        f"the teacher's error is {n['teacher']:.4g}, the student's {n['student']:.4g}; "
        f"teacher and student share {share[0]:.2f} nats, student and label {share[1]:.2f}"
    )
    if gap < GAP:
        distillation = False, f"there is nothing to distil: {facts}"
    elif share[0] <= share[1] + SHARE:
        distillation = (
            False,
            f"what the teacher knows is not in the student's view: {facts} (the criterion asks "
            "for more with the teacher)",
        )
    else:
        distillation = (
            True,
            f"the teacher knows more, and the student can see some of it: {facts}; in the "
            f"short run {n['continued']:.4g} -> {n['distilled']:.4g}",
        )
    moved = gain(n["target_none"], n["target_fine_tuned"])
    transfer = (
        moved > GAIN,
        f"fine-tuning from the source changes the target's error from {n['target_none']:.4g} "
        f"to {n['target_fine_tuned']:.4g}",
    )
    better = gain(n["target_l2"], n["target_prior"])
    prior = (
        n["phi_over_noise"] > NOISE and better > GAIN,
        f"phi is {n['phi_over_noise']:.1f} times its noise, and the prior changes the target's "
        f"error from {n['target_l2']:.4g} (tuned l2) to {n['target_prior']:.4g}",
    )
    return {"distillation": distillation, "transfer": transfer, "prior": prior}


def told(report):
    """The verdicts as text."""
    words = {
        "distillation": "distilling",
        "transfer": "starting from the source",
        "prior": "the learned prior instead of l2",
    }
    lines = [
        f"{words[q]}: {'likely to help' if yes else 'not likely to help'}: {why}."
        for q, (yes, why) in report["verdicts"].items()
    ]
    return "\n".join([*lines, "From a short run: a hint, not a result."])
