"""`cmkg data textures`: colours of scans, carried to the vertices of a hand's model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ...errors import InputError
from ...runtime.checks import expect_positive
from ...runtime.files import write_atomically
from ...runtime.progress import Bar, say
from ..rendering.scan_colours import carry_colours, read_registration, read_scan, write_colours

LEAST_SHARE = 0.5  # of the vertices: below it most colours would be made up


@dataclass(frozen=True)
class CarryTextures:
    """Settings. A scan and its registration have one file name, up to the suffix."""

    scans: str
    """Folder of scans: *.ply with a colour a vertex."""
    registrations: str
    """Folder of the meshes registered to them: *.ply with the model's vertices in its order."""
    out: str = "data/textures"
    """What `cmkg render --textures` reads."""
    vertices: int = 778
    """Of the model; 778 is MANO's."""
    reach: float = 0.005
    """How far a scan's point may be from the vertex that it colours, in the scans' unit (MANO's is
    metres)."""

    def __post_init__(self) -> None:
        expect_positive(self, "vertices", "reach")


def run(config: CarryTextures) -> list[Path]:
    """Writes a coloured mesh for each pair; returns their paths."""
    pairs = find_pairs(Path(config.scans), Path(config.registrations))
    if Path(config.out).resolve() in (Path(config.scans).resolve(), pairs[0][1].parent.resolve()):
        raise InputError(f"--out {config.out}: is where the inputs lie; choose another folder")
    written = []
    least = 1.0
    with Bar("textures", len(pairs), things="scans") as advance:
        for scan_file, hand_file in pairs:
            scan = read_scan(scan_file)
            hand = read_registration(hand_file, config.vertices)
            try:
                colours, share = carry_colours(scan, hand, config.reach)
            except ValueError as error:
                raise InputError(
                    f"{scan_file}, {hand_file}: {error} within {config.reach:g}; are both in one "
                    "frame and unit? --reach is in it"
                ) from None
            if share < LEAST_SHARE:
                raise InputError(
                    f"{scan_file}, {hand_file}: the scan is near {share:.0%} of the vertices, "
                    f"expected {LEAST_SHARE:.0%} or more; are both of one hand, in one frame?"
                )
            path = Path(config.out) / f"{scan_file.stem}.ply"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, partial(write_colours, hand=hand, colours=colours))
            written.append(path)
            least = min(least, share)
            advance()
    say(
        f"{config.out}: {len(written)} textures, of all scans that have a registration; they reach "
        f"at least {least:.0%} of the vertices"
    )
    return written


def find_pairs(scans: Path, registrations: Path) -> list[tuple[Path, Path]]:
    """[(scan, registration)] of the file names that both folders have.

    Raises:
        InputError: there is none.
    """
    meshes = {path.stem: path for path in registrations.glob("*.ply")}
    clouds = sorted(scans.glob("*.ply"))
    pairs = [(path, meshes[path.stem]) for path in clouds if path.stem in meshes]
    if not pairs:
        raise InputError(
            f"{scans} and {registrations}: expected *.ply of the same names, found {len(clouds)} "
            f"and {len(meshes)} files, none in common"
        )
    return pairs
