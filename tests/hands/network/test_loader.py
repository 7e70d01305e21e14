from contextlib import nullcontext
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from cmkg.errors import InputError
from cmkg.hands.commands import distill
from cmkg.hands.commands import student as source
from cmkg.hands.datasets.packed.format import Packed
from cmkg.hands.datasets.packed.labelled_set import (
    choose_labels,
    frame_range,
    open_frames,
    open_source,
)
from cmkg.hands.datasets.packed.pack import pack
from cmkg.hands.network.augment import Augmentation
from cmkg.hands.network.loader import Loader, convention_matrix
from cmkg.hands.network.pose import Pose
from cmkg.hands.rendering.scenes import SceneConfig
from cmkg.hands.stages.stage_run import load_optimizer, save_optimizer, steps_of
from cmkg.hands.stages.stage_settings import OptimConfig
from cmkg.hands.synthesis.rendered import Rendered
from tests.hands.runs import NET, SMALL, common, settings


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed") / "set"
    return pack(Rendered(SceneConfig(px=24), 12), folder, workers=1)


@dataclass
class process:  # noqa: N801 - one of several, none of which speaks to another
    global_rank: int
    world_size: int
    device = torch.device("cpu")
    autocast = nullcontext


def test_frames_outside_the_set_are_refused(packed):
    assert frame_range(packed, None) == (0, 12)
    for wrong in ((3, 3), (-1, 4), (0, 13)):
        with pytest.raises(InputError, match="expected a range inside the 12 of"):
            frame_range(packed, wrong)


def test_a_missing_modality_is_refused(packed, tmp_path):
    without = pack(Rendered(SceneConfig(px=24), 4, with_depth=False), tmp_path / "rgb", workers=1)
    open_frames(packed).expect_modalities(("rgb", "depth"))
    with pytest.raises(InputError, match="has no depth; this stage needs a packed set with rgb"):
        Loader(open_frames(without), 16, modalities=("rgb", "depth"))


def test_an_epoch_draws_each_frame_of_the_block_once(packed):
    loader = Loader(open_frames(packed, (4, 10)), 16)
    seen = torch.cat([loader.training_batch(0, step, 3, process(0, 1)).scale_mm for step in (0, 1)])
    whole = Loader(open_frames(packed), 16).fetch(np.arange(4, 10)).scale_mm
    torch.testing.assert_close(seen.sort().values, whole.sort().values)


def test_few_labels_are_among_the_more_and_an_epoch_stays_as_long(packed):
    few, more = (np.flatnonzero(choose_labels(packed, count, 3)) for count in (3, 6))
    assert set(few) < set(more)
    assert choose_labels(packed, 0, 3).all()
    assert set(np.flatnonzero(choose_labels(packed, 3, 4))) != set(few)
    with pytest.raises(InputError, match="--labels: expected at most the 12 labelled samples of"):
        choose_labels(packed, 13, 0)
    loader = Loader(open_source(packed.folder, "", 3, 3), 16)
    assert steps_of(OptimConfig(epochs=2, batch=4), loader) == 2 * 12 // 4
    lengths = Loader(open_frames(packed), 16).fetch(few).scale_mm
    seen = torch.cat([loader.training_batch(0, step, 4, process(0, 1)).scale_mm for step in (0, 1)])
    assert set(seen.tolist()) == set(lengths.tolist())


def test_a_batch_has_its_share_of_pairs_without_labels(packed):
    data = open_source(packed.folder, "", 4, 0)
    few = data.with_label
    loader = Loader(data, 16, modalities=("rgb", "depth"), unlabelled=0.75)
    whole = Loader(open_frames(packed), 16).fetch(np.arange(12)).scale_mm
    labelled, others = whole[few].tolist(), np.delete(whole, few).tolist()
    seen = []
    for step in (0, 1):
        batch = loader.training_batch(0, step, 8, process(0, 1))
        assert batch.labelled.tolist() == [True] * 2 + [False] * 6
        assert set(batch.scale_mm[:2].tolist()) <= set(labelled)
        assert set(batch.scale_mm[2:].tolist()) <= set(others)
        seen += batch.scale_mm[:2].tolist()
    assert sorted(seen) == sorted(labelled)
    with pytest.raises(InputError, match="--unlabelled: expected a share of the batch from 0 to"):
        Loader(open_frames(packed), 16, unlabelled=1.0)


def test_kept_answers_turn_with_the_picture(packed):
    """The true joints, said of the still pictures, are the true joints of the turned ones."""
    still = Loader(open_frames(packed), 16).fetch(np.arange(12))
    turning = Augmentation(turn_deg=60, shift=0.1, zoom=0.2)
    loader = Loader(
        open_frames(packed), 16, augmentation=turning, answers=Pose(still.joints, still.uv)
    )
    mixed = replace(loader, data=open_source(packed.folder, "", 4, 0), unlabelled=0.5)
    for one in (loader, mixed):
        batch = one.training_batch(0, 0, 6, process(0, 1))
        torch.testing.assert_close(batch.answers.joints, batch.joints, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(batch.answers.uv, batch.uv, rtol=1e-4, atol=1e-4)
    assert (batch.uv - still.uv[:6]).abs().max() > 0.1


def test_processes_share_a_batch_and_steps_repeat(packed):
    loader = Loader(open_frames(packed), 16)
    whole = loader.training_batch(5, 1, 4, process(0, 1))
    parts = [loader.training_batch(5, 1, 4, process(place, 2)) for place in (0, 1)]
    shared = torch.cat([part.joints for part in parts])
    order = [int((shared == joints).flatten(1).all(1).nonzero()[0]) for joints in whole.joints]
    assert sorted(order) == [0, 1, 2, 3]
    moving = Loader(open_frames(packed), 16, augmentation=Augmentation())
    first, again, later = (moving.training_batch(5, step, 4, process(0, 1)) for step in (1, 1, 2))
    assert torch.equal(first.rgb, again.rgb)
    assert not torch.equal(first.rgb, later.rgb)


def test_a_sets_own_convention_is_the_identity(packed):
    torch.testing.assert_close(
        convention_matrix(packed, Packed(packed.folder)), torch.eye(21), rtol=0, atol=1e-6
    )


def test_the_second_half_is_another_order_and_may_go_on_with_adams_state(
    whole, tmp_path, monkeypatch
):
    keys = []
    draw = Loader.training_batch

    def noted(self, seed, *rest, **named):
        keys.append(seed)
        return draw(self, seed, *rest, **named)

    monkeypatch.setattr(Loader, "training_batch", noted)
    shared = {**common(whole), **SMALL}
    first = {"out": str(tmp_path / "first"), "keep_optimizer": True, **NET}
    source.run(settings(source.SETTINGS, **shared, **first))
    state = str(tmp_path / "first/optimizer.pt")
    second = {"start": str(tmp_path / "first/student.safetensors"), "optimizer_state": state}
    source.run(settings(source.SETTINGS, **shared, **NET, **second, out=str(tmp_path / "second")))
    teacher = {"teacher": str(whole / "teacher"), "student": str(whole / "student")}
    for start in ("student", "theta_0"):
        out = str(tmp_path / start)
        distill.run(settings(distill.Distill, **shared, **teacher, start=start, out=out))
    assert list(dict.fromkeys(keys)) == [0, ("after", "first", 0), ("after", "student", 0)]
    assert keys[-6:] == [0] * 6  # from theta_0 on it is no second half
    held = torch.load(state, weights_only=True)["state"]
    assert {int(one["step"]) for one in held.values()} == {6}
    other = torch.optim.Adam(torch.nn.Linear(3, 2).parameters())
    with pytest.raises(InputError, match="optimizer.pt: expected the state of this network's"):
        load_optimizer(state, other)
    plain = torch.optim.Adagrad(other.param_groups[0]["params"])
    for parameter in plain.param_groups[0]["params"]:
        parameter.grad = torch.ones_like(parameter)
    plain.step()
    save_optimizer(tmp_path / "adagrad.pt", plain)
    with pytest.raises(
        InputError, match="adagrad.pt: expected Adam's state with the field exp_avg"
    ):
        load_optimizer(
            tmp_path / "adagrad.pt", torch.optim.Adam(torch.nn.Linear(3, 2).parameters())
        )
