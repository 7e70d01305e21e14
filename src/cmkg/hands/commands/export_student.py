"""`cmkg export-student`: writes a finished stage's student as a folder to distribute.

It can be loaded with the mixin of huggingface_hub; with --onnx, by any program that reads ONNX.
"""

from __future__ import annotations

import copy
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from ...errors import InputError
from ...runtime.cards import write_card
from ...runtime.checks import expect_apart
from ...runtime.files import write_text
from ...runtime.locks import hold_folder_of
from ...runtime.partial_folders import begin_anew
from ...runtime.run_records import read_result
from ...runtime.text import printable
from ...runtime.weight_files import load_weights, save_weights
from ..datasets.packed.format import Packed
from ..files.exports import EXPORTED, INT8_FILE, MANIFEST, STUDENT_FILE, write_manifest
from ..network.hand_student import CALIBRATION, HandStudent
from ..stages.finished_run import FinishedRun
from ..stages.stage_run import ABOUT_STUDENT, card_facts


@dataclass(frozen=True)
class ExportStudent:
    """Export a trained student as a folder to distribute."""

    stage: str
    """Folder of a finished student, distill or target run."""
    student: str
    """Folder of the source student, which defines the architecture."""
    out: str
    """Output folder."""
    data: str = ""
    """A packed set that the student was not trained on: gives the bone length of the hands, and
    calibrates the student's confidence."""
    onnx: bool = False
    """Also write student.onnx, for other runtimes."""
    int8: bool = False
    """Also write student-int8.onnx, calibrated and evaluated on --data."""
    calibration: tuple[float, float] = CALIBRATION
    """Calibration of the confidence, see HandStudent; --data computes it from the set instead."""
    half: bool = False
    """Store the weights in 16 bits, at half the size."""

    def __post_init__(self) -> None:
        if self.int8 and not self.data:
            raise InputError("--int8: give --data, a packed set to see the ranges on")


def run(config: ExportStudent) -> None:
    """Writes the weights, their settings and a model card."""
    from ..export.calibration import calibrated

    stage = FinishedRun(Path(config.stage))
    net = FinishedRun(Path(config.student)).net
    student = HandStudent(
        net.backbone,
        net.width,
        net.head,
        net.stem_stride,
        net.px,
        upright=net.upright,
        calibration=config.calibration,
    )
    if (config.data or config.onnx or config.int8) and net.head != "integral":
        raise InputError(
            "--data, --onnx, --int8: this student has the pooled head, which has no confidence "
            "and no places on the picture; leave them out"
        )
    packed = Packed(config.data) if config.data else None
    if packed is not None and len(packed) < 2:
        raise InputError(f"--data {config.data}: expected two samples or more")
    load_weights(stage.student_weights, student.net)
    if packed is not None:
        student = calibrated(student, packed)
    out = Path(config.out)
    sources = (config.stage, config.student, config.data)
    expect_apart(out, *filter(None, sources))
    with hold_folder_of(out, EXPORTED, (MANIFEST,)):
        partial = out.with_name(f"{out.name}.partial")
        begin_anew(partial)
        write_export(config, stage, student, packed, partial)
        replace_export(partial, out)
    print(printable(f"{config.out}: load it with HandStudent.from_pretrained({config.out!r})"))


def write_export(
    config: ExportStudent,
    stage: FinishedRun,
    student: HandStudent,
    packed: Packed | None,
    out: Path,
) -> None:
    """Writes all files of the folder."""
    from ..export.onnx_writer import write_onnx

    facts = card_facts(stage.settings, read_result(stage.folder / "result.json"))
    try:
        student.save_pretrained(out)
    except OSError:
        raise
    except Exception as error:  # raised by safetensors if the disk is full
        reason = str(error).splitlines()[0]
        raise OSError(28, f"could not be written ({reason})", str(out)) from error
    kept = copy.deepcopy(student).half() if config.half else student
    save_weights(out / "model.safetensors", kept)  # again, with a checksum
    if packed is not None:
        facts |= write_reliability(student, packed, out)
    if config.onnx or config.int8:
        write_onnx(student, out / STUDENT_FILE, config.half)
    if config.int8 and packed is not None:
        facts |= write_in_8_bits(student, packed, out)
    write_card(out / "README.md", "A hand student", facts, ABOUT_STUDENT)
    write_manifest(out)


def replace_export(partial: Path, out: Path) -> None:
    """Replaces an earlier export; the manifest is deleted first and written last."""
    for name in (MANIFEST, *EXPORTED):
        (out / name).unlink(missing_ok=True)
    for name in (*(file for file in EXPORTED if file != MANIFEST), MANIFEST):
        if (partial / name).exists():
            os.replace(partial / name, out / name)
    shutil.rmtree(partial)


def write_reliability(student: HandStudent, packed: Packed, out: Path) -> dict[str, str]:
    """Writes reliability.svg, measured on the half of the set not used for calibration."""
    from ..export.calibration import (
        calibration_error,
        halves,
        judge_joints,
        judged_confidence,
        reliability,
    )
    from ..report.plots import plot_reliability

    judged = judge_joints(student, packed, halves(packed)[1])
    bins = reliability(judged_confidence(student, judged), judged.is_near)
    picture = plot_reliability([b.confidence for b in bins], [b.share for b in bins])
    write_text(out / "reliability.svg", picture)
    return {"confidence is off by (ECE)": f"{calibration_error(bins):.3f}"}


def write_in_8_bits(student: HandStudent, packed: Packed, out: Path) -> dict[str, str]:
    """Writes student-int8.onnx; returns its loss of accuracy, for the model card."""
    from ..export.onnx_backend import OnnxFile
    from ..export.onnx_writer import error_of, write_int8

    path, small = out / STUDENT_FILE, out / INT8_FILE
    write_int8(path, small, packed, student.config)
    whole, eighth = (error_of(OnnxFile(file), packed, student.config) for file in (path, small))
    loss = f"{100 * (eighth / whole - 1):+.1f} % error ({whole:.3f} to {eighth:.3f} bones)"
    print(printable(f"{small}: {loss}"))
    return {"in 8 bits": loss}


SETTINGS = ExportStudent
