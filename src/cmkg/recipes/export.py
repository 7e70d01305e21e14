"""`cmkg export`: a finished stage's student as a folder that huggingface_hub's mixin loads, with
its model card."""

from dataclasses import dataclass
from pathlib import Path

from .. import engine
from ..cards import write_card
from ..errors import InputError
from .common import ABOUT_STUDENT, card_facts

WEIGHTS = ("target.safetensors", "distilled.safetensors", "student.safetensors")


@dataclass(frozen=True)
class Export:
    stage: str
    """Folder of a finished student, distill or target run."""
    student: str
    """Folder of the source student: its architecture."""
    out: str
    """Folder to write."""


def run(config: Export):
    from ..hands.student import HandStudent

    stage, net = Path(config.stage), engine.read_json(f"{config.student}/config.json")
    expected = ("backbone", "width", "head", "stem_stride", "px")
    if not isinstance(net, dict) or any(k not in net for k in expected):
        raise InputError(
            f"{config.student}/config.json: expected the settings of a student run, with "
            f"{', '.join(expected)}"
        )
    path = next((stage / w for w in WEIGHTS if (stage / w).exists()), None)
    if path is None:
        raise InputError(
            f"{stage}: expected a finished stage with one of {', '.join(WEIGHTS)}, found none"
        )
    student = HandStudent(**{k: net[k] for k in expected})
    engine.load_weights(path, student.net)
    student.save_pretrained(config.out)
    write_card(
        f"{config.out}/README.md",
        "A hand student",
        card_facts(
            engine.read_json(stage / "config.json"), engine.read_json(stage / "result.json")
        ),
        ABOUT_STUDENT,
    )
    print(
        f"{config.out}: load it with cmkg.hands.student.HandStudent.from_pretrained({config.out!r})"
    )
