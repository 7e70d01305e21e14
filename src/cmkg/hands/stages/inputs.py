"""What a stage reads, by checksum: a run on a set that was packed anew is another run."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ...runtime.files import read_file
from ...runtime.run_files import read_own_settings
from ...runtime.runs import OF_INPUT
from ..datasets.packed import read_meta

WEIGHTS = ("theta_0", "student", "teacher", "model")


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
            found[f"{OF_INPUT}{name.replace('_', '-')}"] = digest
    return found


def checksums_of_sets(*paths: str) -> dict[str, str]:
    """Of several sets that have one setting, by their place."""
    return checksums_of(**{f"set_{place}": path for place, path in enumerate(paths, 1)})


def _checksum_of(path: Path) -> str:
    digest = hashlib.sha256()
    if (path / "meta.json").exists():
        digest.update(repr(sorted(read_meta(path)["crc32"].items())).encode())
    elif path.is_dir():  # of a run: its network, and the weights that other stages read
        if (path / "config.json").exists():
            settings = read_own_settings(path)
            digest.update(repr([settings.get(name) for name in ("modality", "net")]).encode())
        for name in WEIGHTS:
            if (file := path / f"{name}.safetensors").exists():
                digest.update(name.encode() + read_file(file, "weights"))
    elif path.exists():
        digest.update(read_file(path, "weights, a prior or answers"))
    else:
        return ""
    return digest.hexdigest()[:16]
