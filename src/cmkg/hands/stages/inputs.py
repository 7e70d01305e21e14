"""What a stage reads, by checksum: a run on a set that was packed anew is another run."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ...runtime.files import read_file
from ..datasets.packed import read_meta


def checksums_of(**paths: str) -> dict[str, str]:
    """{setting: checksum} of packed sets, of finished runs' folders and of files.

    What is not given or not there is left out: the stage itself says so.

    Args:
        paths: by the names of their settings.

    Raises:
        InputError: a set's meta.json is damaged, or a file cannot be read.
    """
    found = {}
    for name, path in paths.items():
        if path and (digest := _checksum_of(Path(path))):
            found[f"checksum of {name.replace('_', '-')}"] = digest
    return found


def _checksum_of(path: Path) -> str:
    digest = hashlib.sha256()
    if (path / "meta.json").exists():
        digest.update(repr(sorted(read_meta(path)["crc32"].items())).encode())
    elif path.is_dir():  # of a run: its weights
        for file in sorted(path.glob("*.safetensors")):
            digest.update(file.name.encode() + read_file(file, "weights"))
    elif path.exists():
        digest.update(read_file(path, "weights, a prior or answers"))
    else:
        return ""
    return digest.hexdigest()[:16]
