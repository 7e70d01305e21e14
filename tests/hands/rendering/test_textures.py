import numpy as np
import pytest
from plyfile import PlyData, PlyElement

from cmkg.errors import InputError
from cmkg.hands.rendering.textures import load_textures


def write_scan(path, colours, channels=("red", "green", "blue")):
    rows = np.zeros(len(colours), [(c, "u1") for c in channels])
    for channel, values in zip(channels, colours.T, strict=True):
        rows[channel] = values
    PlyData([PlyElement.describe(rows, "vertex")]).write(str(path))


def test_colours_are_read_as_linear_light(tmp_path):
    write_scan(tmp_path / "a.ply", np.array([[0, 255, 128], [64, 64, 64]]))
    (texture,) = load_textures(str(tmp_path), 2)
    np.testing.assert_allclose(texture[0], [0, 1, (128 / 255) ** 2.2])


def test_what_is_no_registered_scan_is_one_sentence(tmp_path):
    with pytest.raises(InputError, match="expected registered scans"):
        load_textures(str(tmp_path / "none"), 2)
    for name, colours, channels, sentence in (
        ("short", np.zeros((1, 3)), ("red", "green", "blue"), "holds 1 vertices, expected"),
        ("grey", np.zeros((2, 1)), ("grey",), "expected a PLY file with red, green and blue"),
    ):
        (tmp_path / name).mkdir()
        write_scan(tmp_path / name / "a.ply", colours, channels)
        with pytest.raises(InputError, match=sentence):
            load_textures(str(tmp_path / name), 2)
    (tmp_path / "junk").mkdir()
    (tmp_path / "junk/a.ply").write_bytes(b"ply\nformat nothing")
    with pytest.raises(InputError, match=r"junk/a.ply: expected a PLY file"):
        load_textures(str(tmp_path / "junk"), 2)
