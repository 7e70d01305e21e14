import numpy as np

from cmkg.hands.rendering.rasterizer import Look, Renderer

PX = 96


K = np.array([[120.0, 0, PX / 2 - 0.5], [0, 120.0, PX / 2 - 0.5], [0, 0, 1]])


def plain_look(count):
    lamp = np.array([[0, 0, -1.0], [0, -1.0, 0]])
    return Look(
        np.full((count, 3), 0.5),
        lamp,
        np.full((2, 3), 0.5),
        np.full(3, 0.3),
        np.full(3, 0.3),
        0.0,
        0.0,
        99.0,
        np.zeros((2, 3)),
        0.0,
    )


def draw_mesh(vertices, faces):
    rgb, depth = Renderer(vertices, faces, np.zeros(len(vertices))).draw(
        vertices[None], K[None], PX, [plain_look(len(vertices))]
    )
    return rgb[0], depth[0]


def rays():
    u, v = np.meshgrid(np.arange(PX), np.arange(PX))
    return np.stack([(u - K[0, 2]) / 120, (v - K[1, 2]) / 120, np.ones((PX, PX))], -1)


def test_a_tilted_plane():
    corners = np.array([[-1, -1, 0.4], [1, -1, 0.5], [1, 1, 0.7], [-1, 1, 0.6]])
    normal = np.cross(corners[1] - corners[0], corners[3] - corners[0])
    _, depth = draw_mesh(corners, np.array([[0, 1, 2], [0, 2, 3]]))
    expected = normal @ corners[0] / (rays() @ normal)
    assert (depth > 0).all()
    assert np.abs(depth - expected).max() < 0.0005


def icosphere(radius, centre, divisions=5):
    t = (1 + 5**0.5) / 2
    v = np.array(
        [
            [-1, t, 0],
            [1, t, 0],
            [-1, -t, 0],
            [1, -t, 0],
            [0, -1, t],
            [0, 1, t],
            [0, -1, -t],
            [0, 1, -t],
            [t, 0, -1],
            [t, 0, 1],
            [-t, 0, -1],
            [-t, 0, 1],
        ]
    )
    f = np.array(
        [
            [0, 11, 5],
            [0, 5, 1],
            [0, 1, 7],
            [0, 7, 10],
            [0, 10, 11],
            [1, 5, 9],
            [5, 11, 4],
            [11, 10, 2],
            [10, 7, 6],
            [7, 1, 8],
            [3, 9, 4],
            [3, 4, 2],
            [3, 2, 6],
            [3, 6, 8],
            [3, 8, 9],
            [4, 9, 5],
            [2, 4, 11],
            [6, 2, 10],
            [8, 6, 7],
            [9, 8, 1],
        ]
    )
    for _ in range(divisions):
        a, b, c = (v[f[:, i]] for i in range(3))
        n = len(v)
        v = np.concatenate([v, a + b, b + c, c + a])
        m = len(f)
        ab, bc, ca = (n + i * m + np.arange(m) for i in range(3))
        f = np.concatenate(
            [
                np.stack(q, 1)
                for q in ((f[:, 0], ab, ca), (f[:, 1], bc, ab), (f[:, 2], ca, bc), (ab, bc, ca))
            ]
        )
        v = v / np.linalg.norm(v, axis=1, keepdims=True)
    return radius * v + centre, f


def test_a_sphere_and_its_light():
    centre, radius = np.array([0.02, -0.01, 0.5]), 0.12
    rgb, depth = draw_mesh(*icosphere(radius, centre))
    r = rays()
    a, b, c = (r**2).sum(-1), r @ centre, centre @ centre - radius**2
    disc = b**2 - a * c
    hit = disc > 0
    expected = (b - np.sqrt(np.maximum(disc, 0))) / a
    # away from the silhouette, where a facet's chord is longest
    inner = disc > 0.02 * b**2 * radius
    assert np.abs(depth - expected)[inner].max() < 0.0005
    assert ((depth > 0) != hit).mean() < 0.01
    assert rgb[hit].min() >= 0
    assert rgb[int(PX / 2), int(PX / 2)].mean() > rgb[hit].mean()
