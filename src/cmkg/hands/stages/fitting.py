"""The one training loop of all stages, and the batches that it draws."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ...errors import InputError
from ...runtime.distributed import Processes, expect_divided
from ...runtime.files import BROKEN, PathLike, read_arrays
from ...runtime.random import batch_indices, generator
from ...runtime.runs import Losses, Run
from ...runtime.weight_files import load_sealed, save_sealed
from ..datasets.array_files import DiskArray
from ..datasets.packed import JoinedSets, Packed, TrainingSet
from ..network.augment import (
    NONE,
    Augmentation,
    Stored,
    Turns,
    network_inputs,
    roll_turns,
    upright_rolls,
)
from ..network.pose import HandBatch, Pose
from ..skeleton import retarget_matrix
from .settings import OptimConfig, SourceData, expect_share

Frames = tuple[int, int]  # [first, last)
OPTIMIZER = "optimizer.pt"


def frame_range(packed: Packed, frames: Frames | None) -> Frames:
    """[first, last) of the frames to use; all when None.

    Raises:
        InputError: they are not inside the set.
    """
    first, last = frames or (0, len(packed))
    if not 0 <= first < last <= len(packed):
        raise InputError(
            f"frames {first} to {last}: expected a range inside the {len(packed)} of "
            f"{packed.folder}"
        )
    return first, last


def convention_matrix(source: Packed, target: Packed) -> Float[Tensor, "21 21"]:
    """Joints of the source's annotators to those of the target's: skeleton.retarget_matrix."""
    matrix = retarget_matrix(source.bone_lengths, target.bone_lengths)
    return torch.from_numpy(matrix).float()


def expect_modalities(packed: TrainingSet, modalities: Sequence[str]) -> None:
    """Refuses a set that lacks one of "rgb" and "depth"."""
    if isinstance(packed, JoinedSets):
        expect_modalities(packed.first, modalities)
        expect_modalities(packed.second, modalities)
        return
    for modality in modalities:
        if getattr(packed, modality) is None:
            raise InputError(
                f"{packed.folder}: has no {modality}; this stage needs a packed set with "
                f"{' and '.join(modalities)}"
            )


def labelled_numbers(source: SourceData, packed: TrainingSet) -> np.ndarray | None:
    """Numbers of the samples of a source whose labels are used; None is all.

    Where --labels asks for fewer than there are, they follow from --label-seed alone, and fewer of
    them are among the more. What is mixed in (--extra) keeps its labels.

    Raises:
        InputError: there are not so many.
    """
    own = packed.first if isinstance(packed, JoinedSets) else packed
    have = own.labels()
    if source.labels > have.sum():
        raise InputError(
            f"--labels: expected at most the {have.sum()} labelled samples of {own.folder}, got "
            f"{source.labels}"
        )
    if not source.labels:
        return numbers_with_label(packed)
    order = torch.randperm(len(own), generator=generator("labels", source.label_seed)).numpy()
    mixed_in = np.flatnonzero(packed.labels()[len(own) :]) + len(own)
    return np.concatenate([np.sort(order[have[order]][: source.labels]), mixed_in])


def numbers_with_label(packed: TrainingSet) -> np.ndarray | None:
    """Numbers of the samples that have a label; None where all have."""
    have = packed.labels()
    return None if have.all() else np.flatnonzero(have)


@dataclass(frozen=True)
class Loader:
    """What a stage draws its batches from.

    frames: only these of the set. modalities: of "rgb" and "depth". labelled: numbers of those
    whose labels are used; None is all that have one. unlabelled: share of each batch that is drawn
    from the others; 0 leaves them out. An epoch takes as many steps as the whole set does, however
    many have labels. answers: a teacher's, of every sample of the set, in its order. upright:
    NetConfig.upright.
    """

    packed: TrainingSet
    px: int
    device: torch.device | str = "cpu"
    modalities: tuple[str, ...] = ("rgb",)
    augmentation: Augmentation = NONE
    frames: Frames | None = None
    labelled: np.ndarray | None = None
    unlabelled: float = 0.0
    answers: Pose | None = None
    upright: bool = False

    def __post_init__(self) -> None:
        expect_modalities(self.packed, self.modalities)
        expect_share(self.unlabelled)

    def _range(self) -> Frames:
        if self.frames is None or isinstance(self.packed, JoinedSets):
            return 0, len(self.packed)
        return frame_range(self.packed, self.frames)

    @cached_property
    def _every(self) -> np.ndarray:
        return np.arange(*self._range())

    @cached_property
    def _with_label(self) -> np.ndarray | None:
        """None is every one of the frames."""
        used = numbers_with_label(self.packed) if self.labelled is None else self.labelled
        if used is None or self.labelled is not None:
            return used
        return np.intersect1d(used, self._every)

    @cached_property
    def _without_label(self) -> np.ndarray:
        return np.setdiff1d(self._every, [] if self._with_label is None else self._with_label)

    def __len__(self) -> int:
        first, last = self._range()
        return last - first

    def fetch(
        self,
        rows: Sequence[int] | np.ndarray,
        draws: torch.Generator | None = None,
        turns: Turns | None = None,
    ) -> HandBatch:
        """Network inputs of the samples `rows` of the whole set.

        Args:
            rows: their numbers.
            draws: what the augmentation draws from.
            turns: of the virtual camera; None draws them.
        """
        numbers = np.asarray(rows)
        packed = self.packed
        if isinstance(packed, Packed):
            return self._fetch(packed, numbers, draws, turns)
        count = len(packed.first)
        own, other = numbers[numbers < count], numbers[numbers >= count] - count
        if not len(other):
            return self._fetch(packed.first, own, draws, turns)
        batch = self._fetch(packed.second, other, draws, turns)
        batch = batch.to_convention(convention_matrix(packed.second, packed.first))
        return self._fetch(packed.first, own, draws, turns).join(batch) if len(own) else batch

    def _fetch(
        self,
        packed: Packed,
        rows: np.ndarray,
        draws: torch.Generator | None,
        turns: Turns | None,
    ) -> HandBatch:
        def pick(array: np.ndarray | DiskArray) -> Tensor:
            return torch.from_numpy(array[rows]).to(self.device)

        with_depth = "depth" in self.modalities and packed.depth is not None
        stored = Stored(
            joints_mm=pick(packed.joints_mm),
            K=pick(packed.K),
            px=packed.stored_px,
            margin=packed.margin,
            rgb=pick(packed.rgb) if "rgb" in self.modalities else None,
            depth=pick(packed.depth) if with_depth and packed.depth is not None else None,
            answers=self._answers_of(rows),
        )
        return network_inputs(stored, self.px, self.augmentation, draws, turns, self.upright)

    def turns_of(self, rows: Sequence[int], angle_deg: float) -> Turns:
        """How the network sees these samples of a packed set, turned on by an angle."""
        turns = roll_turns(len(rows), angle_deg, self.device)
        if not self.upright:
            return turns
        assert isinstance(self.packed, Packed)
        numbers = np.asarray(rows)
        joints, K = (
            torch.from_numpy(one[numbers]).to(self.device)
            for one in (self.packed.joints_mm, self.packed.K)
        )
        return turns._replace(R=turns.R @ upright_rolls(joints, K))

    def _answers_of(self, rows: np.ndarray) -> Pose | None:
        if self.answers is None:
            return None
        joints, uv, _ = self.answers
        numbers = torch.from_numpy(rows)
        picked = None if uv is None else uv[numbers].to(self.device)
        return Pose(joints[numbers].to(self.device), picked)

    def shares_of(self, batch: int) -> tuple[int, int]:
        """How many samples of a batch have a label that is used, and how many have none."""
        if self._with_label is None or not len(self._without_label):
            return batch, 0
        size = min(round(batch * self.unlabelled), batch - 1)
        return batch - size, size

    def training_batch(
        self, seed: object, step: int, batch: int, fabric: Processes, stream: str = "augment"
    ) -> HandBatch:
        """This process's share of a step's batch; order and augmentation follow from the key."""
        place, count = fabric.global_rank, fabric.world_size
        order_key = seed if stream == "augment" else (stream, seed)
        draws = generator(stream, seed, step, place, device=fabric.device)

        def drawn(numbers: np.ndarray, key: object, size: int) -> HandBatch:
            rows = batch_indices(key, step, len(numbers), size, place, count)
            return self.fetch(numbers[rows.numpy()], draws)

        own_size, size = self.shares_of(batch)
        if self._with_label is None:
            return drawn(self._every, order_key, own_size)
        own = drawn(self._with_label, order_key, own_size)
        if not size:
            return own
        other = drawn(self._without_label, ("unlabelled", order_key), size)
        mask = torch.arange(len(own) + len(other), device=fabric.device) < len(own)
        return replace(own.join(other), labelled=mask)


def fit(
    run: Run,
    optim: OptimConfig,
    loader: Loader,
    state: dict[str, Any],
    fabric: Processes,
    update: Callable[[HandBatch, int], Losses],
    key: object = None,
) -> int:
    """Trains for all epochs; resumes where it was killed.

    Args:
        run: the stage's folder.
        optim: epochs, batch and rate.
        loader: where batches come from.
        state: what a checkpoint holds; "optimizer" is the one whose rate is set.
        fabric: the processes.
        update: takes one step on a batch, given its number; returns the losses.
        key: of the order of the samples and their augmentation; None is the seed of `optim`.

    Returns:
        The number of steps.

    Raises:
        InputError: the processes cannot share a batch evenly.
        Stopped: a signal asked the program to end; the step is kept.
    """
    batch = min(optim.batch, len(loader))
    own, others = loader.shares_of(batch)
    expect_divided(own, "--batch" if not others else "--batch, its share with labels")
    expect_divided(others, "--batch, --unlabelled: the share without labels")
    total = steps_of(optim, loader)
    with closing(run.steps(total, state, batch)) as steps:
        for step, log in steps:
            optim.set_rate(state["optimizer"], step, total)
            drawn = loader.training_batch(optim.seed if key is None else key, step, batch, fabric)
            log(update(drawn, step))
    return total


def read_answers(path: PathLike, count: int) -> Pose:
    """What a teacher said of every sample of a set, as `cmkg distill --cached` keeps it.

    Raises:
        InputError: the file is not there, was changed, or holds no answers on so many samples.
    """
    held = {name: torch.from_numpy(one) for name, one in read_arrays(path).items()}
    shapes = {"joints": (count, 21, 3), "uv": (count, 21, 2)}
    if "joints" not in held:
        raise InputError(f"{path}: expected a teacher's answers (joints, uv), found {list(held)}")
    for name, shape in shapes.items():
        one = held.get(name)
        if one is not None and (tuple(one.shape) != shape or not bool(torch.isfinite(one).all())):
            raise InputError(
                f"{path}: field {name!r}: expected finite answers on {count} samples, found "
                f"{tuple(one.shape)}: give those of the same set, or remove it and run its stage "
                "again"
            )
    return Pose(held["joints"], held.get("uv"))


def steps_of(optim: OptimConfig, loader: Loader) -> int:
    """How many steps all epochs take."""
    return optim.epochs * (len(loader) // min(optim.batch, len(loader)))


def second_half(first: PathLike, seed: int) -> object:
    """The key of a training that goes on: not the first half's order and augmentation again.

    All that go on from a folder of this name share it, so that they can be compared.
    """
    return "after", Path(first).name, seed


def save_optimizer(path: PathLike, optimizer: torch.optim.Optimizer) -> None:
    """Writes an optimiser's state, atomically."""
    save_sealed(path, optimizer.state_dict())


def load_optimizer(path: PathLike, optimizer: torch.optim.Optimizer) -> None:
    """Puts a written state into an optimiser of the same network.

    Raises:
        InputError: the file is not there or is another network's.
    """
    rates = [group["lr"] for group in optimizer.param_groups]
    held = load_sealed(path, "an optimiser's state", "run its stage with --keep-optimizer again")
    try:
        optimizer.load_state_dict(held)
    except BROKEN as error:
        raise InputError(
            f"{path}: expected the state of this network's optimiser, as --keep-optimizer writes "
            f"it: {error}"
        ) from None
    for parameter, state in optimizer.state.items():
        if state["exp_avg"].shape != parameter.shape:
            raise InputError(
                f"{path}: expected moments of shape {tuple(parameter.shape)}, found "
                f"{tuple(state['exp_avg'].shape)}: it belongs to another network"
            )
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
