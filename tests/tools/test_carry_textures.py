import numpy as np
import pytest
from plyfile import PlyData, PlyElement
from tools.carry_textures import CarryTextures, Registration, Scan, carry_colours, fill_smoothly

from cmkg.errors import InputError
from cmkg.hands.body.mesh import anny_hand
from cmkg.hands.rendering.textures import load_textures
from tools import carry_textures


def paint(points):
    """A smooth colour of each place, linear light."""
    return 0.5 + 0.4 * np.sin(20 * points + [0, 1, 2])


@pytest.fixture(scope="module")
def hand():
    model = anny_hand()
    return Registration(model.template, model.faces)


@pytest.fixture(scope="module")
def scan(hand):
    """Forty thousand points on the hand's surface, painted."""
    rng = np.random.default_rng(0)
    corners = hand.vertices[hand.faces]
    a, b, c = corners.transpose(1, 0, 2)
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    chosen = rng.choice(len(area), 40_000, p=area / area.sum())
    share = rng.dirichlet([1, 1, 1], len(chosen))
    points = np.einsum("nk,nkd->nd", share, corners[chosen])
    return Scan(points, paint(points))


def write_ply(path, points, colours=None, faces=None, kind="u1"):
    kinds = [(axis, "f4") for axis in "xyz"]
    if colours is not None:
        kinds += [(channel, kind) for channel in ("red", "green", "blue")]
    rows = np.zeros(len(points), kinds)
    for place, axis in enumerate("xyz"):
        rows[axis] = points[:, place]
    if colours is not None:
        for place, channel in enumerate(("red", "green", "blue")):
            rows[channel] = (255 * colours[:, place] ** (1 / 2.2)).round()
    elements = [PlyElement.describe(rows, "vertex")]
    if faces is not None:
        triangles = np.zeros(len(faces), [("vertex_indices", "i4", (3,))])
        triangles["vertex_indices"] = faces
        elements.append(PlyElement.describe(triangles, "face"))
    path.parent.mkdir(exist_ok=True)
    PlyData(elements).write(str(path))


def test_colours_are_those_of_the_scan_where_it_is_and_smooth_where_it_is_not(hand, scan):
    colours, share = carry_colours(scan, hand, reach=0.005)
    assert share > 0.98
    assert np.abs(colours - paint(hand.vertices)).max() < 0.1
    assert np.abs(colours - paint(hand.vertices)).mean() < 0.01
    hole = np.linalg.norm(scan.points - hand.vertices[400], axis=1) < 0.02
    holed = Scan(scan.points[~hole], scan.colours[~hole])
    filled, reached = carry_colours(holed, hand, reach=0.005)
    assert reached < share
    assert np.abs(filled - paint(hand.vertices)).max() < 0.25
    assert (filled.min(0) >= holed.colours.min(0) - 1e-9).all()  # a mean of what is around it
    assert (filled.max(0) <= holed.colours.max(0) + 1e-9).all()


def test_a_gap_is_the_straight_line_between_its_ends():
    strip = np.array([[i, i + 1, i + 1] for i in range(4)])  # a chain of five vertices
    known = np.array([True, False, False, False, True])
    ends = np.zeros((5, 3))
    ends[4] = 1
    filled = fill_smoothly(ends, known, strip)
    np.testing.assert_allclose(filled[:, 0], [0, 0.25, 0.5, 0.75, 1])
    with pytest.raises(ValueError, match="no point of the scan is near a part"):
        fill_smoothly(np.zeros((6, 3)), np.array([*known, False]), strip)


def test_files_of_one_name_become_a_texture(tmp_path, hand, scan, capsys):
    write_ply(tmp_path / "scans/a.ply", scan.points, scan.colours)
    write_ply(tmp_path / "scans/alone.ply", scan.points, scan.colours)
    write_ply(tmp_path / "meshes/a.ply", hand.vertices, faces=hand.faces)
    count = len(hand.vertices)
    config = CarryTextures(
        str(tmp_path / "scans"), str(tmp_path / "meshes"), str(tmp_path / "out"), count
    )
    (path,) = carry_textures.run(config)
    assert path.name == "a.ply"
    (texture,) = load_textures(str(tmp_path / "out"), count)
    assert np.abs(texture - paint(hand.vertices)).mean() < 0.01


def test_what_is_no_pair_is_one_sentence(tmp_path, hand, scan):
    def carry(**changes):
        folders = {"scans": str(tmp_path / "scans"), "registrations": str(tmp_path / "meshes")}
        settings = folders | {"out": str(tmp_path / "out"), "vertices": len(hand.vertices)}
        return carry_textures.run(CarryTextures(**(settings | changes)))

    write_ply(tmp_path / "scans/a.ply", scan.points[:500])
    write_ply(tmp_path / "meshes/b.ply", hand.vertices, faces=hand.faces)
    with pytest.raises(InputError, match="the same names, found 1 and 1 files, none in common"):
        carry()
    write_ply(tmp_path / "meshes/a.ply", hand.vertices, faces=hand.faces)
    with pytest.raises(InputError, match=r"a\.ply: expected vertices with x, y, z, red"):
        carry()
    with pytest.raises(InputError, match="is where the inputs lie; choose another folder"):
        carry(out=str(tmp_path / "scans"))
    near = np.linalg.norm(scan.points - hand.vertices[400], axis=1) < 0.02
    write_ply(tmp_path / "scans/a.ply", scan.points[near], scan.colours[near])
    with pytest.raises(InputError, match=r"near \d+% of the vertices, expected 50% or more"):
        carry()
    write_ply(tmp_path / "scans/a.ply", scan.points, scan.colours, kind="f4")
    with pytest.raises(InputError, match="expected colours of one byte .uchar., found float32"):
        carry()
    write_ply(tmp_path / "scans/a.ply", 1000 * scan.points, scan.colours)  # in millimetres
    with pytest.raises(InputError, match="near a part of the mesh within 0.005; are both in one"):
        carry(reach=0.005)
    with pytest.raises(InputError, match=r"a\.ply: holds \d+ vertices, expected the model's 778"):
        carry(vertices=778)
    write_ply(tmp_path / "meshes/a.ply", hand.vertices)
    with pytest.raises(InputError, match=r"a\.ply: expected triangles between"):
        carry()
    (tmp_path / "scans/a.ply").write_bytes(b"ply\nformat ascii 1.0\nelement vertex 9")
    with pytest.raises(InputError, match=r"a\.ply: expected a PLY file"):
        carry()
    assert not (tmp_path / "out").exists()
