"""Carries the colours of scans to the vertices of a hand's model, for `cmkg render --textures`.

    python tools/carry_textures.py --scans A --registrations B --out data/textures

A scan (*.ply with a colour per vertex) and the mesh registered to it have the same file name.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tyro
from jaxtyping import Float, Int
from scipy.sparse import coo_array, diags_array
from scipy.sparse.linalg import spsolve
from scipy.spatial import cKDTree

from cmkg.cli.main import end_in_one_sentence
from cmkg.errors import InputError
from cmkg.runtime.checks import expect_positive
from cmkg.runtime.files import read_file, write_atomically
from cmkg.runtime.progress import Bar, say

MOST_PLY_BYTES = 1 << 30

NEIGHBOURS = 8
CHANNELS = ("red", "green", "blue")
Points = Float[np.ndarray, "n 3"]


class Scan(NamedTuple):
    """A cloud of coloured points. colours: linear light, 0 to 1."""

    points: Points
    colours: Points


class Registration(NamedTuple):
    """A hand's mesh where the scan's surface is, in the scan's unit."""

    vertices: Points
    faces: Int[np.ndarray, "f 3"]


def carry_colours(scan: Scan, hand: Registration, reach: float) -> tuple[Points, float]:
    """A colour for each vertex of the hand.

    That of the scan's nearest points, the nearer the more; where none is within reach (a hole, the
    cut arm), the mean of the neighbouring vertices, smoothly over the whole gap.

    Args:
        scan: coloured points.
        hand: the mesh that was registered to them.
        reach: how far a point may be, in the scan's unit.

    Returns:
        (colours in linear light, share of vertices that the scan reaches).

    Raises:
        ValueError: the scan reaches no vertex of a connected part of the mesh.
    """
    count = min(NEIGHBOURS, len(scan.points))
    distances, nearest = cKDTree(scan.points).query(
        hand.vertices, k=[*range(1, count + 1)], distance_upper_bound=reach
    )
    found = np.isfinite(distances)
    weights = np.where(found, 1 - np.where(found, distances, 0) / reach, 0) + 1e-9 * found
    total = weights.sum(1, keepdims=True)
    held = scan.colours[np.where(found, nearest, 0)]
    seen = found.any(1)
    colours = (weights[..., None] * held).sum(1) / np.where(seen[:, None], total, 1)
    return fill_smoothly(colours, seen, hand.faces), float(seen.mean())


def fill_smoothly(colours: Points, known: np.ndarray, faces: Int[np.ndarray, "f 3"]) -> Points:
    """Unknown vertices become the mean of their neighbours' colours (a discrete Laplace equation).

    Raises:
        ValueError: a connected part of the mesh has no known vertex.
    """
    if known.all():
        return colours
    count = len(colours)
    ends = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    rows, columns = np.concatenate([ends, ends[:, ::-1]]).T
    links = coo_array((np.ones(len(rows)), (rows, columns)), shape=(count, count)).tocsr()
    links.data[:] = 1  # an edge that two faces share counts once
    laplacian = (diags_array(links.sum(1)) - links).tocsr()
    gap = np.flatnonzero(~known)
    inside = laplacian[gap][:, gap]
    border = -laplacian[gap][:, np.flatnonzero(known)] @ colours[known]
    _expect_a_known_vertex_in_each_part(links, known)
    filled = colours.copy()
    filled[gap] = np.reshape(spsolve(inside.tocsc(), border), (len(gap), 3))
    return filled


def _expect_a_known_vertex_in_each_part(links: Any, known: np.ndarray) -> None:
    from scipy.sparse.csgraph import connected_components

    _, part = connected_components(links, directed=False)
    if not np.isin(part, part[known]).all():
        raise ValueError("no point of the scan is near a part of the mesh")


# ---- files ---------------------------------------------------------------------------------------
def read_scan(path: Path) -> Scan:
    """A PLY file with x, y, z, red, green and blue a vertex.

    Raises:
        InputError: it is not; names the file.
    """
    vertex, _ = _read_ply(path, ("x", "y", "z", *CHANNELS))
    kinds = {str(vertex.dtype[channel]) for channel in CHANNELS}
    if kinds != {"uint8"}:
        raise InputError(
            f"{path}: expected colours of one byte (uchar), found {', '.join(sorted(kinds))}"
        )
    colours = np.stack([vertex[channel] for channel in CHANNELS], 1).astype(float)
    return Scan(_finite(path, vertex), (colours / 255) ** 2.2)


def read_registration(path: Path, vertex_count: int) -> Registration:
    """A PLY file with the model's vertices, in its order, and triangles.

    Raises:
        InputError: it is not; names the file.
    """
    vertex, faces = _read_ply(path, ("x", "y", "z"))
    vertices = _finite(path, vertex)
    if len(vertices) != vertex_count:
        raise InputError(
            f"{path}: holds {len(vertices)} vertices, expected the model's {vertex_count}"
        )
    if faces is None or faces.min() < 0 or faces.max() >= vertex_count:
        raise InputError(f"{path}: expected triangles between its {vertex_count} vertices")
    return Registration(vertices, faces)


def write_colours(path: Path, hand: Registration, colours: Points) -> None:
    """The mesh with a colour a vertex, as textures.load_textures reads it."""
    from plyfile import PlyData, PlyElement

    kinds = [(axis, "f4") for axis in "xyz"] + [(channel, "u1") for channel in CHANNELS]
    rows = np.zeros(len(colours), kinds)
    stored = np.clip(255 * np.clip(colours, 0, 1) ** (1 / 2.2), 0, 255).round()
    for place, axis in enumerate("xyz"):
        rows[axis] = hand.vertices[:, place]
    for place, channel in enumerate(CHANNELS):
        rows[channel] = stored[:, place]
    triangles = np.zeros(len(hand.faces), [("vertex_indices", "i4", (3,))])
    triangles["vertex_indices"] = hand.faces
    elements = [PlyElement.describe(rows, "vertex"), PlyElement.describe(triangles, "face")]
    PlyData(elements).write(str(path))


def _read_ply(path: Path, names: tuple[str, ...]) -> tuple[Any, Any]:
    """(vertices with these fields, (f, 3) triangles or None)."""
    from plyfile import PlyData

    try:
        data = read_file(path, "a PLY file", "copy it again", MOST_PLY_BYTES)
        held = PlyData.read(io.BytesIO(data))
        vertex = held["vertex"].data
        faces = None
        if "face" in held:
            faces = np.stack(held["face"].data[held["face"].properties[0].name]).astype(int)
        missing = [name for name in names if name not in vertex.dtype.names]
    except Exception as error:  # whatever a damaged file makes of the parser
        raise InputError(
            f"{path}: expected a PLY file, could not read it ({type(error).__name__}: {error})"
        ) from None
    if missing or not len(vertex):
        raise InputError(
            f"{path}: expected vertices with {', '.join(names)}, found {len(vertex)} with "
            f"{', '.join(vertex.dtype.names)}"
        )
    if faces is not None and (faces.ndim != 2 or faces.shape[1] != 3):
        raise InputError(f"{path}: expected triangles, found faces of another number of corners")
    return vertex, faces


def _finite(path: Path, vertex: Any) -> Points:
    points = np.stack([vertex[axis] for axis in "xyz"], 1).astype(float)
    if not np.isfinite(points).all():
        raise InputError(f"{path}: expected finite coordinates, found one that is not")
    return points


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


if __name__ == "__main__":
    end_in_one_sentence(lambda: run(tyro.cli(CarryTextures, description=__doc__)))
