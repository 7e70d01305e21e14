"""The manifest of an exported folder: a sealed list of its files and their checksums.

`cmkg export` writes it last, and opening the folder checks every file against it. Bit flips, stale
files and incomplete copies are therefore reported clearly.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from ...errors import InputError
from ...runtime.files import PathLike, read_file, read_sealed_json, write_sealed_json

MANIFEST = "manifest.json"
SETTINGS_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
STUDENT_FILE, INT8_FILE = "student.onnx", "student-int8.onnx"
STUDENT_FILES = (SETTINGS_FILE, WEIGHTS_FILE, STUDENT_FILE, INT8_FILE)
EXPORTED = (*STUDENT_FILES, "reliability.svg", "README.md", MANIFEST)
# The files of a Hand: MediaPipe's two networks and their metadata.
LANDMARKS_FILE, PALMS_FILE = "hand_landmark.tflite", "palm_detection.tflite"
FACTS_FILE = "hand.json"
HAND_FILES = (LANDMARKS_FILE, PALMS_FILE, FACTS_FILE)
LISTED = (*STUDENT_FILES, *HAND_FILES)
MOST_FILE_BYTES = 1 << 30
EXPORT_AGAIN = "export it again, or copy the whole folder"


def read_own_file(folder: PathLike, name: str, what: str) -> bytes:
    """Reads a regular file of limited size inside an untrusted folder.

    In a hub's cache, whose folders contain links, the targets must belong to the same model.

    Raises:
        InputError: the file is missing, links out of the folder, is not regular, or is too large.
    """
    home, path = Path(folder).resolve(), Path(folder) / name
    allowed = [home]
    if home.parent.name == "snapshots":
        allowed.append(home.parents[1] / "blobs")
    try:
        real = path.resolve(strict=True)
    except (OSError, RuntimeError):
        raise InputError(f"{path}: no such file; expected {what}; {EXPORT_AGAIN}") from None
    if real.parent not in allowed:
        raise InputError(f"{path}: is a link out of its folder; expected {what}; {EXPORT_AGAIN}")
    return read_file(path, what, EXPORT_AGAIN, MOST_FILE_BYTES)


def write_manifest(folder: PathLike) -> None:
    """Writes the list of the networks' files in a folder, with their checksums."""
    home = Path(folder)
    names = [name for name in LISTED if (home / name).exists()]
    files = {name: _checksum(read_own_file(home, name, "an exported file")) for name in names}
    write_sealed_json(home / MANIFEST, {"format": "cmkg-export/1", "files": files})


def expect_whole_export(
    folder: PathLike, required: Sequence[str] = (SETTINGS_FILE, WEIGHTS_FILE)
) -> None:
    """Rejects a folder whose files were not exported together.

    Args:
        folder: the exported folder.
        required: names of files that must be listed.

    Raises:
        InputError: a file is missing, changed or not listed, or there is no manifest.
    """
    home = Path(folder)
    if not (home / MANIFEST).exists():
        raise InputError(
            f"{folder}: expected a folder that `cmkg adapt` or an export wrote, found no "
            f"{MANIFEST} in it; {EXPORT_AGAIN}"
        )
    listed = read_sealed_json(home / MANIFEST).get("files")
    files = listed if isinstance(listed, dict) else {}
    for name in required:
        if name not in files:
            raise InputError(f"{home / MANIFEST}: lists no {name}; {EXPORT_AGAIN}")
    for name in LISTED:
        path = home / name
        if name not in files:
            if path.exists() or path.is_symlink():
                raise InputError(f"{path}: was not exported with its folder; {EXPORT_AGAIN}")
            continue
        if _checksum(read_own_file(home, name, "an exported file")) != files[name]:
            raise InputError(
                f"{path}: its checksum is not the one in {MANIFEST}: it was changed, or is of "
                f"another export; {EXPORT_AGAIN}"
            )


def _checksum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
