"""`cmkg data info`: prints the contents of a packed set and verifies its checksums."""

from __future__ import annotations

from dataclasses import dataclass

from ...runtime.text import printable
from ..datasets.packed.format import verify_checksums


@dataclass(frozen=True)
class PackedInfo:
    """Print the contents of a packed set and verify its checksums."""

    folder: str
    """Folder of the packed set."""


def run(config: PackedInfo) -> None:
    """Prints the contents of a packed set after verifying its checksums."""
    packed = verify_checksums(config.folder)
    for name, value in (packed.meta["holds"] | {"count": len(packed)}).items():
        print(printable(f"{name:12} {value}"))
    for name, (shape, dtype) in packed.meta["arrays"].items():
        print(printable(f"{name:12} {tuple(shape)} {dtype}"))
    print(
        printable(f"{'middle bone':12} {packed.bone_mm:.2f} mm on average\n{'checksums':12} match")
    )


SETTINGS = PackedInfo
