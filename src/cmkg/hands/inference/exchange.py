"""Converts results to hands.json and hands.csv."""

from __future__ import annotations

import csv
import io
from typing import Any

from ..skeleton import JOINTS
from .hand_result import HandResult

DIGITS = 3
FORMAT = "cmkg-hands/2"


def record_of(
    result: HandResult, image: str, frame: tuple[int, float] | None = None, overlay: str = ""
) -> dict[str, Any]:
    """Converts one hand to plain JSON, as stored in hands.json.

    Args:
        result: the hand.
        image: the file's name.
        frame: the number and the time in seconds of a video's frame; None for a picture.
        overlay: the file with the drawn skeleton.
    """

    def rounded(array: Any) -> Any:
        return array.round(DIGITS).tolist()

    record: dict[str, Any] = {"image": image}
    if overlay:
        record["overlay"] = overlay
    if frame is not None:
        number, seconds = frame
        record |= {"frame": number, "seconds": round(seconds, 4), "track": result.track}
    record |= {
        "side": result.side,
        "confidence": round(result.confidence, DIGITS),
        "side_confidence": round(result.side_confidence, DIGITS),
        "palm_towards_camera": result.palm_towards_camera,
        "box": [round(number, DIGITS) for number in result.box],
        "joints_px": rounded(result.joints_px),
        "joints_mm": rounded(result.joints_mm),
    }
    if result.wrist_mm is not None:
        record["wrist_mm"] = rounded(result.wrist_mm)
    return record


UNITS = {
    "box": "x, y, width, height in pixels",
    "joints_px": "pixels of the picture as it is shown, the first one's middle at (0, 0)",
    "joints_mm": "mm from the wrist on; x right, y down, z away from the camera",
    "confidence": "chance that there is a hand",
    "side_confidence": "chance that it is of this side",
    "seconds": "of the frame, from the video's beginning",
}


def document_of(
    records: list[dict[str, Any]], bone_mm: float, without: list[str]
) -> dict[str, Any]:
    """Builds hands.json: the records, their units, and the files without a hand."""
    return {
        "format": FORMAT,
        "joints": list(JOINTS),
        "units": UNITS,
        "bone_mm": bone_mm,
        "without_hands": without,
        "hands": records,
    }


def _as_text(name: str) -> str:
    """Escapes a file name for spreadsheets, so that it is not interpreted as a formula."""
    return f"'{name}" if name[:1] in ("=", "+", "-", "@", "\t", "\r") else name


def csv_of(records: list[dict[str, Any]]) -> str:
    """Formats records as CSV with one row per joint."""
    text = io.StringIO()
    names = ("image", "frame", "hand", "side", "joint", "name", "x_px", "y_px")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*names, "x_mm", "y_mm", "z_mm", "confidence"])
    counts: dict[tuple[str, Any], int] = {}
    for record in records:
        place = record["image"], record.get("frame", "")
        number = counts[place] = counts.get(place, -1) + 1
        for joint, name in enumerate(JOINTS):
            pixels, mm = record["joints_px"][joint], record["joints_mm"][joint]
            sure = record["confidence"]
            shown = _as_text(place[0]), place[1]
            writer.writerow([*shown, number, record["side"], joint, name, *pixels, *mm, sure])
    return text.getvalue()
