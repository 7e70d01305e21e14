import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from cmkg.errors import Diverged
from cmkg.hands.files.exports import LANDMARKS_FILE, PALMS_FILE
from cmkg.hands.geometry import rotation_to_axis
from cmkg.hands.inference.hand import OWN, Hand
from cmkg.hands.mediapipe.backend import Networks
from cmkg.hands.mediapipe.networks import Landmarks, TfliteNetwork
from cmkg.hands.teaching.frames import FROM_AFAR, Frames, in_convention
from cmkg.hands.teaching.photograph_labels import label_photographs
from cmkg.hands.teaching.scores import LOWEST, find_in_frames, findable, score_answers
from cmkg.hands.teaching.teach import Teaching, TeachingRecipe, TeachingSet, rate_at, rows_at
from cmkg.hands.teaching.views import FLAG_WEIGHT, Looks, flag_loss, pose_loss, views_of
from tests.hands.photographs import left_hand, right_hand


@pytest.fixture(scope="module")
def network():
    return TfliteNetwork.open(OWN / LANDMARKS_FILE)


@pytest.fixture(scope="module")
def frames(network):
    palms = TfliteNetwork.open(OWN / PALMS_FILE)
    pictures = [right_hand(), np.full((200, 200, 3), 128, np.uint8), left_hand()]
    labels = label_photographs(pictures, palms, network)
    assert labels.number.tolist() == [0, 2]
    assert labels.is_right.tolist() == [True, False]
    return labels.frames(pictures)


def test_labels_of_many_looks_are_near_one_look(frames):
    answers = find_in_frames(Hand.from_pretrained(), frames)
    found = score_answers(answers, frames)
    assert found.found == found.side == 1
    assert found.px_percent < 4
    assert found.epe_mm < 12


def test_a_perfect_answer_has_no_loss_however_a_view_is_turned(frames):
    rng = np.random.default_rng(0)
    views = views_of(frames, [0, 1, 0, 1], Looks(turn=1.0, mirrored=0.5), rng)
    screen = torch.cat([views.screen, views.depth[..., None]], 2)
    said = Landmarks(screen, torch.ones(4), torch.ones(4), views.world + 0.3)
    assert pose_loss(said, views).item() < 1e-3
    sizes = views.world.norm(dim=2).amax(1)
    torch.testing.assert_close(sizes[0], sizes[2])  # turned and mirrored, not scaled


def test_labels_are_seen_by_a_camera_that_looks_at_the_hand(frames):
    """A hand at the picture's side: its joints turn by the angle of its ray."""
    K = np.array([[300.0, 0, 160], [0, 300, 160], [0, 0, 1]])
    aside = Frames(
        frames.pictures,
        frames.joints_px + [150, 0],
        frames.joints_mm,
        frames.depth_px,
        frames.is_right,
        np.repeat(K[None], 2, 0),
    )
    from_afar = views_of(frames, [0]).world[0].numpy()
    near = views_of(aside, [0]).world[0].numpy()
    x = frames.joints_px[0, [0, 9], 0].mean() + 150
    angle = np.arctan2(x - 160, 300)
    cosine = (from_afar[12] @ near[12]) / np.linalg.norm(from_afar[12]) ** 2
    assert np.linalg.norm(near[12]) == pytest.approx(np.linalg.norm(from_afar[12]), rel=1e-5)
    assert 0 < np.arccos(cosine) < angle + 0.2
    assert rotation_to_axis(np.linalg.solve(FROM_AFAR, [5.0, 5, 1])) == pytest.approx(
        np.eye(3), abs=1e-6
    )


@pytest.mark.long
def test_a_few_steps_learn_and_leave_the_start_as_it_is(network, frames):
    moved = Frames(
        frames.pictures,
        frames.joints_px + [0.0, 12.0],
        1.1 * frames.joints_mm,
        frames.depth_px,
        frames.is_right,
        frames.K,
    )
    before = copy.deepcopy(network.state_dict())
    recipe = TeachingRecipe(steps=12, batch=4, lr=2e-3, frozen=3)
    looks = Looks(0.1, 0.05, 0.0, 0.0, 0.0, 0.0, 0.0)

    def run(first=0, teaching=None):
        teaching = teaching or Teaching(network, [TeachingSet(moved, 1.0)], recipe, looks)
        return teaching, [teaching.take_step(step)["poses"] for step in range(first, 12)]

    teaching, losses = run()
    assert losses[-1] < 0.6 * losses[0]
    taught = teaching.taught_network()
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    layers = list(zip(taught.children(), network.children(), strict=True))
    assert all(torch.equal(own.weight, other.weight) for own, other in layers[:3])
    assert not torch.equal(layers[-1][0].weight, layers[-1][1].weight)
    # Gone on with from a checkpoint after nine steps: the same network.
    half = Teaching(network, [TeachingSet(moved, 1.0)], recipe, looks)
    for step in range(9):
        half.take_step(step)
    kept = {name: copy.deepcopy(one.state_dict()) for name, one in half.state.items()}
    again = Teaching(network, [TeachingSet(moved, 1.0)], recipe, looks)
    for name, one in again.state.items():
        one.load_state_dict(kept[name])
    _, rest = run(9, again)
    assert rest == losses[9:]
    assert again.taught_network().tflite_bytes() == taught.tflite_bytes()


def test_a_loss_that_is_not_finite_ends_it(network, frames):
    wrong = Frames(
        frames.pictures,
        frames.joints_px,
        frames.joints_mm * np.nan,
        frames.depth_px,
        frames.is_right,
        frames.K,
    )
    teaching = Teaching(network, [TeachingSet(wrong, 1.0)], TeachingRecipe(steps=1, batch=2))
    with pytest.raises(Diverged, match="the loss is nan at step 1"):
        teaching.take_step(0)


def test_presence_and_side_are_kept_or_learned():
    """By hand: two labelled views, and one place beside hands."""
    blank = torch.zeros(3, 21, 3)
    said = Landmarks(blank, torch.tensor([0.2, 0.9, 0.4]), torch.tensor([0.1, 0.8, 0.5]), blank)
    start = Landmarks(blank, torch.tensor([0.2, 0.7, 0.1]), torch.tensor([0.1, 0.8, 0.5]), blank)
    kept = (0.2**2 + 0.3**2) / 3
    assert flag_loss(said, start, None).item() == pytest.approx(FLAG_WEIGHT * kept)
    learned = (0.8**2 + 0.1**2 + 0.3**2 + 0.9**2 + 0.8**2) / 3
    own = flag_loss(said, start, torch.tensor([True, False]))
    assert own.item() == pytest.approx(FLAG_WEIGHT * learned)


def test_hands_that_look_unlike_hands_are_counted_as_missed(frames):
    networks = Networks.open(OWN / PALMS_FILE, OWN / LANDMARKS_FILE)
    assert findable(networks, frames) == (0.5, 0.0)
    odd = findable(networks, replace(frames, is_right=~frames.is_right))
    assert odd == (0.5, 1.0)
    grey = [np.full_like(one, 128) for one in frames.pictures]
    assert findable(networks, replace(frames, pictures=grey)) == (LOWEST, 1.0)


def test_rates_and_orders():
    rates = [rate_at(step, 100) for step in range(100)]
    assert max(rates) == pytest.approx(1.0, abs=1e-3)
    assert int(np.argmax(rates)) == 15
    assert rates[-1] < 0.01
    seen = [row for step in range(5) for row in rows_at(10, 4, step, [0])]
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))


def test_other_annotators_joints_have_their_bones(frames):
    K = np.array([[500.0, 0, 160], [0, 500, 160], [0, 0, 1]])
    known = Frames(
        frames.pictures,
        frames.joints_px,
        frames.joints_mm,
        frames.joints_mm[..., 2] * 0.8,
        frames.is_right,
        np.repeat(K[None], 2, 0),
    )
    bones = frames.bones().mean(0) * np.linspace(0.7, 1.3, 20)
    moved = in_convention(known, bones)
    np.testing.assert_allclose(moved.sizes(), bones.sum())
    own = frames.bones() / frames.sizes()[:, None]
    np.testing.assert_allclose(
        moved.bones() / moved.sizes()[:, None] * own.mean(0) / own,
        np.broadcast_to(bones / bones.sum(), (2, 20)),
        rtol=0.06,
    )
    np.testing.assert_allclose(moved.joints_px[:, 0], frames.joints_px[:, 0], atol=1e-6)
    assert not moved.are_placed
