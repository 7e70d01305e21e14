"""Judges from a short run whether distillation, transfer or the prior is likely to help."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

GAP = 0.05  # smallest useful teacher-student gap, relative to the student's error


SCARCE = 0.25  # labels are scarce if the student's error on them is lower by this share


SHARE = 0.05  # nats that the teacher must share beyond the label; noise differs by less


GAIN = 0.03  # relative differences between short runs below this count as none


NOISE = 2.0  # smallest ratio of phi to its noise


class Verdict(NamedTuple):
    """An answer and its reason."""

    likely: bool
    reason: str


@dataclass(frozen=True)
class Report:
    """The result of a short run.

    numbers: errors, shared information and phi's size. verdicts: on "distillation", "transfer" and
    "prior"; also on "pairs without labels" if outputs= was given.
    """

    numbers: dict[str, float]
    verdicts: dict[str, Verdict]


def judge_numbers(numbers: dict[str, float]) -> dict[str, Verdict]:
    """Returns {question: verdict} from preflight's numbers."""
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
        return Verdict(likely=False, reason=f"there is nothing to distil: {facts}")
    if with_teacher <= with_label + SHARE:
        return Verdict(
            likely=False,
            reason="what the teacher knows is not in the student's view: "
            f"{facts} (the criterion asks for more with the teacher)",
        )
    return Verdict(
        likely=True,
        reason=f"the teacher knows more, and the student can see some of it: {facts}; in the short "
        f"run {n['continued']:.4g} -> {n['distilled']:.4g}",
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
    """Judges unlabeled pairs, which can help if the student is much better on its own labels."""
    student, teacher, taught = n["student"], n["teacher"], n["taught"]
    facts = (
        f"the student's error is {n['student_on_its_labels']:.4g} on its labelled samples and "
        f"{student:.4g} on others, the teacher's {teacher:.4g} there"
    )
    if _gain(student, teacher) < GAP:
        return Verdict(
            likely=False, reason=f"the teacher does not know what the labels do not say: {facts}"
        )
    if _gain(student, n["student_on_its_labels"]) < SCARCE:
        return Verdict(likely=False, reason=f"labels are not scarce: {facts}")
    share = (student - taught) / (student - teacher)
    facts += (
        f"; taught by its answers on all pairs {taught:.4g}, {share:.0%} of the gap, for as many "
        "steps"
    )
    if _gain(student, taught) < GAIN:
        return Verdict(
            likely=False, reason=f"the teacher's answers do not reach the student: {facts}"
        )
    return Verdict(likely=True, reason=f"labels are scarce and the teacher knows more: {facts}")


def format_verdicts(report: Report) -> str:
    """Formats the verdicts as text."""
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
