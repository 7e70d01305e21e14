import numpy as np
import pytest

from cmkg.errors import InputError
from cmkg.hands import geometry
from cmkg.hands.body.fit_hand import fit_hand
from cmkg.hands.body.mesh import anny_hand
from cmkg.hands.datasets.packed.format import Packed
from cmkg.hands.datasets.packed.pack import pack
from cmkg.hands.rendering.scenes import SceneConfig, photograph_scenes
from cmkg.hands.synthesis.lookalikes import LookAlikeConfig, LookAlikes, lookalike_scene, paint_out
from cmkg.hands.synthesis.rendered import Rendered
from cmkg.runtime.files import write_arrays


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    """A packed target of one person, and the file of the fit to it."""
    folder = tmp_path_factory.mktemp("target")
    packed = pack(
        Rendered(SceneConfig(px=40, sequences=1, frames=12), 12, with_depth=False),
        folder / "set",
        workers=1,
    )
    write_arrays(folder / "fit.npz", **vars(fit_hand(anny_hand(), packed.joints_mm, steps=150)))
    return folder


def lookalikes(target, px=40, frames=(0, 12), fit="fit.npz", **settings):
    config = LookAlikeConfig(**settings)
    return LookAlikes(str(target / "set"), str(target / fit), frames, px, 1.25, config)


def test_a_look_alike_depends_on_seed_and_number_alone(target):
    hands, other = lookalikes(target, count=6), lookalikes(target, count=6, seed=1)
    together, alone = hands.samples(range(4)), hands.samples([2])
    for name in ("rgb", "joints_mm", "K"):
        np.testing.assert_array_equal(getattr(together[2], name), getattr(alone[0], name))
    assert not np.array_equal(together[2].rgb, other.samples([2])[0].rgb)


def test_its_joints_are_on_the_hand_that_is_drawn(target):
    """Projected joints fall on the mask, but for the annotators' offsets; the box is the
    protocol's."""
    hands = lookalikes(target, px=80, count=12)
    scenes = [lookalike_scene(hands, i) for i in range(12)]
    inside = []
    for drawn in photograph_scenes(scenes, anny_hand(), 80, noisy_depth=True):
        uv = np.rint(geometry.project(drawn.joints_mm, drawn.K)).astype(int).clip(0, 79)
        shifts = [(y, x) for y in (-2, 0, 2) for x in (-2, 0, 2)]
        near = np.stack([np.roll(drawn.mask, shift, (0, 1)) for shift in shifts]).max(0)
        inside.append(near[uv[:, 1], uv[:, 0]].mean())
    assert np.mean(inside) > 0.95
    assert min(inside) > 0.7


def test_a_bent_wrist_moves_the_forearm_and_not_the_hand(target):
    """Without free hands, jitter and turns, the palm looks where one of the frames' palms looks,
    however the wrist bends."""
    hands = lookalikes(target, count=4, free=0.0, turn_deg=0.0, jitter_deg=0.0)
    known = Packed(target / "set").joints_mm

    def direction(joints):
        up = joints[..., 9, :] - joints[..., 0, :]
        return up / np.linalg.norm(up, axis=-1, keepdims=True)

    for i in range(4):
        scene = lookalike_scene(hands, i)
        back = scene.joints @ scene.rotation  # out of the virtual camera
        assert (direction(known) @ direction(back)).max() > np.cos(np.deg2rad(6))


def test_the_hand_is_painted_out():
    rgb = np.full((40, 40, 3), 50, np.uint8)
    rgb[14:26, 14:26] = 250
    columns = [np.linspace(-25, 25, 21), np.resize([-25.0, 25.0], 21), np.full(21, 400.0)]
    K = np.array([[80.0, 0, 19.5], [0, 80.0, 19.5], [0, 0, 1]])
    assert paint_out(rgb, np.stack(columns, 1), K).max() <= 60


def test_a_fit_to_other_frames_is_refused(target):
    with pytest.raises(InputError, match="holds 12 frames, expected 5"):
        lookalike_scene(lookalikes(target, frames=(0, 5)), 0)
    (target / "broken.npz").write_bytes(b"not arrays")
    with pytest.raises(InputError, match="broken.npz: expected arrays"):
        lookalike_scene(lookalikes(target, fit="broken.npz"), 0)


def test_shares_are_shares():
    with pytest.raises(InputError, match="--mixed: expected a share from 0 to 1, got 1.5"):
        LookAlikeConfig(mixed=1.5)
