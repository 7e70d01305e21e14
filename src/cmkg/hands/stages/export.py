"""`cmkg export`: a finished stage's student as a folder that huggingface_hub's mixin loads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...cards import write_card
from ...errors import InputError
from ...runtime.files import load_weights, read_json
from .networks import read_net_config
from .student_card import ABOUT_STUDENT, card_facts

WEIGHTS = ("target.safetensors", "distilled.safetensors", "student.safetensors")


@dataclass(frozen=True)
class Export:
    """Settings of an export."""

    stage: str
    """Folder of a finished student, distill or target run."""
    student: str
    """Folder of the source student: its architecture."""
    out: str
    """Folder to write."""
    data: str = ""
    """A packed set of hands that it was not trained on: gives the hands' bone length, and the
    calibration of its confidence."""


def run(config: Export) -> None:
    """Writes the weights, their settings and a model card."""
    from ..datasets.packed import Packed
    from ..inference.calibrating import calibrated
    from ..network.hand_student import HandStudent

    stage, net = Path(config.stage), read_net_config(config.student)
    path = next((stage / name for name in WEIGHTS if (stage / name).exists()), None)
    if path is None:
        raise InputError(
            f"{stage}: expected a finished stage with one of {', '.join(WEIGHTS)}, found none"
        )
    student = HandStudent(net.backbone, net.width, net.head, net.stem_stride, net.px)
    load_weights(path, student.net)
    if config.data:
        student = calibrated(student, Packed(config.data))
    facts = card_facts(read_json(stage / "config.json"), read_json(stage / "result.json"))
    try:
        student.save_pretrained(config.out)
    except OSError:
        raise
    except Exception as error:  # what safetensors makes of a full disk
        reason = str(error).splitlines()[0]
        raise OSError(28, f"could not be written ({reason})", config.out) from error
    write_card(Path(config.out) / "README.md", "A hand student", facts, ABOUT_STUDENT)
    print(
        f"{config.out}: load it with "
        f"cmkg.hands.network.hand_student.HandStudent.from_pretrained({config.out!r})"
    )
