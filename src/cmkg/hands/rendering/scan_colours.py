"""Colours of a scan, carried to the vertices of the hand that is registered to it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import coo_array, diags_array
from scipy.sparse.linalg import spsolve
from scipy.spatial import cKDTree

from ...errors import InputError
from ...runtime.files import read_file

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
