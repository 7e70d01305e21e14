"""Results as files: hands.json, hands.csv."""

from __future__ import annotations

import csv
import io
from typing import Any

from ..skeleton import JOINTS
from .hand import HandResult

DIGITS = 3
FORMAT = "cmkg-hands/1"


def record_of(result: HandResult, image: str, frame: int | None = None) -> dict[str, Any]:
    """One hand as plain JSON: what hands.json holds a hand.

    Args:
        result: the hand.
        image: the file's name.
        frame: of a video; None of a picture.
    """

    def rounded(array: Any) -> Any:
        return array.round(DIGITS).tolist()

    place = {} if frame is None else {"frame": frame}
    wrist = {} if result.wrist_mm is None else {"wrist_mm": rounded(result.wrist_mm)}
    return {
        "image": image,
        **place,
        "side": result.side,
        "box": [round(number, DIGITS) for number in result.box],
        "joints_px": rounded(result.joints_px),
        "joints_mm": rounded(result.joints_mm),
        "confidence": rounded(result.confidence),
        **wrist,
    }


UNITS = {
    "box": "x, y, width, height in pixels",
    "joints_px": "pixels of the picture as it is shown, the first one's middle at (0, 0)",
    "joints_mm": "mm from the wrist on; x right, y down, z away from the camera",
    "confidence": "chance that the joint is within a tenth of the box's side",
}


def document_of(records: list[dict[str, Any]], bone_mm: float) -> dict[str, Any]:
    """hands.json: the records, and what their numbers are."""
    return {
        "format": FORMAT,
        "joints": list(JOINTS),
        "units": UNITS,
        "bone_mm": bone_mm,
        "hands": records,
    }


def _as_text(name: str) -> str:
    """A file's name as a spreadsheet shows it: one that begins as formulas do is none."""
    return f"'{name}" if name[:1] in ("=", "+", "-", "@", "\t", "\r") else name


def csv_of(records: list[dict[str, Any]]) -> str:
    """A row a joint."""
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
            sure = record["confidence"][joint]
            shown = _as_text(place[0]), place[1]
            writer.writerow([*shown, number, record["side"], joint, name, *pixels, *mm, sure])
    return text.getvalue()
