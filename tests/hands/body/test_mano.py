import copyreg
import pickle
import sys
import types

import numpy as np
import pytest
from scipy.sparse import csc_matrix

from cmkg.errors import InputError
from cmkg.hands.body import mano
from cmkg.hands.body.mesh import anny_hand
from cmkg.hands.rendering import people, scenes, textures


def stand_in(module, name):
    """A class that pickles as module.name, as chumpy's and an old scipy's do."""
    kind = type(
        name,
        (object,),
        {
            "__module__": module,
            "__reduce_ex__": lambda self, protocol: (
                copyreg._reconstructor,
                (type(self), object, None),
                self.__dict__,
            ),
        },
    )
    parts = module.split(".")
    for i in range(1, len(parts) + 1):
        sys.modules.setdefault(".".join(parts[:i]), types.ModuleType(".".join(parts[:i])))
    setattr(sys.modules[module], name, kind)
    return kind


def holding(kind, **state):
    value = kind()
    value.__dict__.update(state)
    return value


def made_model(rng):
    """Arrays in MANO's shapes: vertices of the open hand, parents and tips as MANO has them."""
    hand = anny_hand()
    template = hand.template[np.linspace(0, len(hand.template) - 1, 778).astype(int)] + rng.normal(
        0, 1e-4, (778, 3)
    )
    joints = hand.rest_joints
    # thumb, index, middle, ring, little
    template[[744, 320, 443, 555, 672]] = joints[[4, 8, 12, 16, 20]]
    # MANO's sixteen, in ours
    inner = joints[[0, 5, 6, 7, 9, 10, 11, 17, 18, 19, 13, 14, 15, 1, 2, 3]]
    regressor = np.zeros((16, 778))
    template[:16] = inner
    regressor[np.arange(16), np.arange(16)] = 1
    near = np.linalg.norm(template[:, None] - inner, axis=2)
    weights = np.exp(-near / 0.01) + 1e-12
    faces = np.stack(
        [np.arange(1538) % 778, (np.arange(1538) + 1) % 778, (np.arange(1538) * 7 + 3) % 778], 1
    )
    return {
        "v_template": template,
        "f": faces.astype(np.uint32),
        "shapedirs": rng.normal(0, 1e-2, (778, 3, 10)),
        "posedirs": rng.normal(0, 1e-3, (778, 3, 135)),
        "J_regressor": regressor,
        "weights": weights / weights.sum(1, keepdims=True),
        "kintree_table": np.array(
            [[2**32 - 1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0, 13, 14], range(16)], np.int64
        ),
        "hands_components": np.linalg.qr(rng.normal(size=(45, 45)))[0],
        "hands_mean": rng.normal(0, 0.1, 45),
        "hands_coeffs": rng.normal(size=(9, 45)),
    }


@pytest.fixture
def model():
    return made_model(np.random.default_rng(0))


@pytest.fixture
def path(model, tmp_path):
    """MANO_RIGHT.pkl as Python 2 wrote it; the classes that it names are gone when it is read."""
    before = set(sys.modules)
    Ch, Select, Csc = (
        stand_in("chumpy.ch", "Ch"),
        stand_in("chumpy.reordering", "Select"),
        stand_in("scipy_sparse_old.csc", "csc_matrix"),
    )
    Csc.__module__ = "scipy.sparse.csc"
    sys.modules["scipy.sparse.csc"], kept = (
        sys.modules["scipy_sparse_old.csc"],
        sys.modules.get("scipy.sparse.csc"),
    )
    sparse = csc_matrix(model["J_regressor"])
    order = np.arange(778 * 30).reshape(778, 3, 10)
    held = model | {
        "shapedirs": holding(
            Select,
            a=holding(Ch, x=model["shapedirs"].ravel()),
            idxs=order.ravel(),
            preferred_shape=(778, 3, 10),
        ),
        "J_regressor": holding(
            Csc, data=sparse.data, indices=sparse.indices, indptr=sparse.indptr, _shape=(16, 778)
        ),
        "v_template": holding(Ch, x=model["v_template"]),
    }
    file = tmp_path / "MANO_RIGHT.pkl"
    file.write_bytes(pickle.dumps(held, protocol=2, fix_imports=True))
    if kept is None:
        del sys.modules["scipy.sparse.csc"]
    else:
        sys.modules["scipy.sparse.csc"] = kept
    for name in set(sys.modules) - before:
        if name.startswith(("chumpy", "scipy_sparse_old")):
            del sys.modules[name]
    mano.load_mano.cache_clear()
    return file


def rodrigues(v):
    angle = np.sqrt(v @ v)
    if angle == 0:
        return np.eye(3)
    x, y, z = v / angle
    K = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * K + (1 - np.cos(angle)) * K @ K


def loop(m, shape, pose):
    """MANO as its paper writes it: one vertex, one joint, one 4 x 4 matrix at a time."""
    shaped = m["v_template"].copy()
    for k in range(10):
        shaped = shaped + m["shapedirs"][:, :, k] * shape[k]
    joints = np.array(
        [
            sum(m["J_regressor"][j, v] * shaped[v] for v in np.flatnonzero(m["J_regressor"][j]))
            for j in range(16)
        ]
    )
    R = [np.eye(3), *[rodrigues(pose[3 * j : 3 * j + 3]) for j in range(15)]]
    feature = np.concatenate([(R[j] - np.eye(3)).ravel() for j in range(1, 16)])
    posed = shaped + np.stack([m["posedirs"][:, :, k] * feature[k] for k in range(135)]).sum(0)
    G = []
    for j in range(16):
        local = np.eye(4)
        local[:3, :3] = R[j]
        parent = int(m["kintree_table"][0, j])
        local[:3, 3] = joints[j] - (joints[parent] if j else 0)
        G.append(local if j == 0 else G[parent] @ local)
    vertices = np.zeros((778, 3))
    for v in range(778):
        T = np.zeros((4, 4))
        for j in range(16):
            A = G[j].copy()
            A[:3, 3] = A[:3, 3] - A[:3, :3] @ joints[j]
            T += m["weights"][v, j] * A
        vertices[v] = (T @ [*posed[v], 1])[:3]
    at = np.array([g[:3, 3] for g in G])
    return vertices, at


def test_forward_kinematics_is_the_loop(path, model):
    hand, rng = mano.load_mano(str(path)), np.random.default_rng(1)
    shape, pose = rng.normal(size=10), rng.normal(0, 0.5, 45)
    vertices, joints = hand.posed(shape, pose)
    expected, at = loop(model, shape, pose)
    np.testing.assert_allclose(vertices, expected - at[0], atol=1e-12)
    # wrist, index x3, middle x3, little x3, ring x3, thumb x3 and five tips -> thumb, index,
    # middle, ring, little
    for ours, theirs in {
        0: 0,
        1: 13,
        2: 14,
        3: 15,
        5: 1,
        6: 2,
        7: 3,
        9: 4,
        10: 5,
        11: 6,
        13: 10,
        14: 11,
        15: 12,
        17: 7,
        18: 8,
        19: 9,
    }.items():
        np.testing.assert_allclose(joints[ours], at[theirs] - at[0], atol=1e-12)
    for ours, vertex in {4: 744, 8: 320, 12: 443, 16: 555, 20: 672}.items():
        np.testing.assert_allclose(joints[ours], expected[vertex] - at[0], atol=1e-12)


def test_principal_components_and_the_papers_ranges(path, model):
    hand = mano.load_mano(str(path))
    coefficients = np.array([1.0, -2.0, 0.5])
    np.testing.assert_allclose(
        hand.axis_angles(coefficients),
        model["hands_mean"] + coefficients @ model["hands_components"][:3],
    )
    draws = [
        (
            mano.sample_mano_shape(people.stream("s", i)),
            mano.sample_mano_pose(people.stream("p", i), hand),
        )
        for i in range(200)
    ]
    shapes = np.array([s for s, _ in draws])
    back = np.array([(p - model["hands_mean"]) @ model["hands_components"].T for _, p in draws])
    assert shapes.shape == (200, 10)
    assert 0.029 < np.abs(shapes).max() <= 0.03
    assert 1.95 < np.abs(back[:, :10]).max() <= 2
    assert np.abs(back[:, 10:]).max() < 1e-12


def test_it_renders_with_procedural_skin_and_with_scans(path, tmp_path):
    config = scenes.SceneConfig(px=48, mano=str(path))
    drawn = scenes.draw(config, [0, 1])
    np.testing.assert_array_equal(drawn[1].rgb, scenes.draw(config, [1])[0].rgb)
    assert all(d.mask.sum() > 40 and (d.depth > 0).sum() > 40 for d in drawn)
    lines = [f"0 0 0 {i % 256} 10 200" for i in range(778)]
    header = (
        "ply\nformat ascii 1.0\nelement vertex {}\n"
        + "".join(f"property float {c}\n" for c in "xyz")
        + "".join(f"property uchar {c}\n" for c in ("red", "green", "blue"))
        + "end_header\n"
    )
    (tmp_path / "scan.ply").write_text(header.format(778) + "\n".join(lines) + "\n")
    (texture,) = textures.load_textures(str(tmp_path), 778)
    np.testing.assert_allclose(texture[5], (np.array([5, 10, 200]) / 255) ** 2.2)
    scanned = scenes.draw(scenes.SceneConfig(px=48, mano=str(path), textures=str(tmp_path)), [0])[0]
    assert not np.array_equal(scanned.rgb, drawn[0].rgb)
    np.testing.assert_array_equal(scanned.joints_mm, drawn[0].joints_mm)
    (tmp_path / "scan.ply").write_text(header.format(5) + "\n".join(lines[:5]) + "\n")
    textures.load_textures.cache_clear()
    with pytest.raises(InputError, match="scan.ply: holds 5 vertices, expected the hand's 778"):
        textures.load_textures(str(tmp_path), 778)


class Evil:
    def __reduce__(self):
        return eval, ("open('ran', 'w')",)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda m: m.pop("weights"), "field 'weights' is missing"),
        (
            lambda m: m.update(posedirs=m["posedirs"][..., :9]),
            r"field 'posedirs' has shape \(778, 3, 9\), expected \(778, 3, 135\)",
        ),
        (
            lambda m: m["v_template"].__setitem__((3, 1), np.nan),
            "field 'v_template' holds a number that is not finite",
        ),
        (
            lambda m: m["f"].__setitem__((0, 0), 778),
            "field 'f' names vertex 778; expected 0 to 777",
        ),
        (
            lambda m: m["kintree_table"].__setitem__((0, 3), 9),
            "field 'kintree_table': expected each joint's parent before it",
        ),
        (
            lambda m: m.update(hands_mean="text"),
            "field 'hands_mean' holds something that is no number",
        ),
        (lambda m: m.update(f=Evil()), "refused: this pickle asks for .*eval"),
        (lambda m: m.update(more=print), "refused: this pickle asks for .*"),
    ],
)
def test_another_file_is_refused_by_name(model, tmp_path, monkeypatch, change, sentence):
    monkeypatch.chdir(tmp_path)
    change(model)
    for protocol in (0, 2, 4):
        (tmp_path / "MANO_RIGHT.pkl").write_bytes(pickle.dumps(model, protocol=protocol))
        mano.load_mano.cache_clear()
        with pytest.raises(InputError, match=sentence):
            mano.load_mano(str(tmp_path))
    assert not (tmp_path / "ran").exists()


def test_no_file_and_no_pickle(tmp_path):
    with pytest.raises(InputError, match="no such file.*mano.is.tue.mpg.de"):
        mano.load_mano(str(tmp_path / "MANO_RIGHT.pkl"))
    (tmp_path / "MANO_RIGHT.pkl").write_bytes(b"hello")
    with pytest.raises(InputError, match="the pickle is broken"):
        mano.load_mano(str(tmp_path))
