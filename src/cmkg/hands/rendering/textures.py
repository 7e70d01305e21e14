"""Skin textures from scans registered to a hand's mesh."""

from __future__ import annotations

import io
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Float

from ...errors import InputError
from ...runtime.files import read_file

MOST_PLY_BYTES = 1 << 30

Texture = Float[np.ndarray, "v 3"]


@lru_cache(maxsize=2)
def load_textures(folder: str, vertex_count: int) -> tuple[Texture, ...]:
    """Reads the linear RGB reflectances of a folder's scans (*.ply with one color per vertex).

    Raises:
        InputError: there are no scans, or one is not registered to the model.
    """
    paths = sorted(Path(folder).glob("*.ply"))
    if not paths:
        raise InputError(
            f"{folder}: expected registered scans with coloured vertices (*.ply), found none"
        )
    return tuple(_read_texture(path, vertex_count) for path in paths)


def _read_texture(path: Path, vertex_count: int) -> Texture:
    from plyfile import PlyData

    try:
        data = read_file(path, "a PLY file", "copy it again", MOST_PLY_BYTES)
        vertices = PlyData.read(io.BytesIO(data))["vertex"]
        channels = [vertices[channel] for channel in ("red", "green", "blue")]
        colour = np.stack(channels, 1).astype(float)
    except Exception as error:  # a damaged file can raise anything
        raise InputError(
            f"{path}: expected a PLY file with red, green and blue a vertex, could not read them "
            f"({type(error).__name__}: {error})"
        ) from None
    if colour.shape != (vertex_count, 3):
        raise InputError(
            f"{path}: holds {len(colour)} vertices, expected the hand's {vertex_count}: a scan "
            "registered to the model"
        )
    return (colour / 255) ** 2.2
