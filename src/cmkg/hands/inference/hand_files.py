"""Reads and writes the folder of a Hand's networks, used by `cmkg adapt` and `cmkg export`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from ...errors import InputError
from ...runtime.files import PathLike, read_json, write_bytes, write_json
from ..files.exports import (
    FACTS_FILE,
    HAND_FILES,
    LANDMARKS_FILE,
    PALMS_FILE,
    expect_whole_export,
    read_own_file,
    write_manifest,
)
from ..mediapipe.backend import Networks
from ..mediapipe.tflite_files import TfliteFile

FORMAT = "cmkg-hand/1"
BONE_MM = (5.0, 120.0)
USUAL_PALM_SCORE = 0.5  # MediaPipe's default


class HandFacts(NamedTuple):
    """Metadata of a folder's networks.

    bone_mm: the ruler length that the network's outputs assume, from the middle finger's knuckle to
    its next joint (skeleton.RULER_SHARE). base: the name of the network that was fine-tuned.
    palm_score: the default for the lowest score of a palm in a whole picture.
    """

    bone_mm: float
    base: str
    palm_score: float = USUAL_PALM_SCORE


def read_hand_folder(folder: PathLike) -> tuple[Networks, HandFacts]:
    """Reads the networks of a folder and their metadata.

    Raises:
        InputError: the folder holds no networks, or damaged ones.
    """
    home = Path(folder)
    expect_whole_export(home, HAND_FILES)
    palms, landmarks = (
        TfliteFile(read_own_file(home, name, "a network's file"), str(home / name))
        for name in (PALMS_FILE, LANDMARKS_FILE)
    )
    return Networks(palms, landmarks), read_facts(home)


def read_facts(folder: PathLike) -> HandFacts:
    """Reads hand.json of a folder.

    Raises:
        InputError: the file is missing or invalid.
    """
    path = Path(folder) / FACTS_FILE
    content = read_json(path, "a hand's facts")
    facts: dict[str, Any] = content if isinstance(content, dict) else {}
    bone, base, palm = (
        facts.get("bone_mm"),
        facts.get("base"),
        facts.get("palm_score", USUAL_PALM_SCORE),
    )
    is_sane = isinstance(bone, (int, float)) and BONE_MM[0] < bone < BONE_MM[1]
    if not is_sane or not isinstance(base, str) or bone is None:
        raise InputError(
            f"{path}: expected bone_mm from 5 to 120 and the base's name, found {content!r:.80}"
        )
    if not isinstance(palm, (int, float)) or not 0 < palm <= 1:
        raise InputError(f"{path}: expected palm_score between 0 and 1, found {palm!r:.40}")
    return HandFacts(float(bone), base, float(palm))


def write_hand_folder(folder: PathLike, landmarks: bytes, palms: bytes, facts: HandFacts) -> None:
    """Writes the files, and last the manifest that marks them as complete."""
    home = Path(folder)
    home.mkdir(parents=True, exist_ok=True)
    for name, data in ((LANDMARKS_FILE, landmarks), (PALMS_FILE, palms)):
        write_bytes(home / name, data)
    write_json(home / FACTS_FILE, {"format": FORMAT, **facts._asdict()})
    write_manifest(home)
