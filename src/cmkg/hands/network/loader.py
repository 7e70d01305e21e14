"""Draws batches of network inputs from packed sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ...errors import InputError
from ...runtime.distributed import Processes
from ...runtime.files import PathLike, read_arrays
from ...runtime.random import batch_indices, generator
from ..datasets.packed.format import Packed
from ..datasets.packed.labelled_set import LabelledSet
from ..files.arrays import DiskArray
from ..skeleton import retarget_matrix
from .augment import NONE, Augmentation, Stored, Turns, network_inputs, roll_turns, upright_rolls
from .pose import HandBatch, Pose


def convention_matrix(source: Packed, target: Packed) -> Float[Tensor, "21 21"]:
    """Maps joints of the source's bone convention to the target's: skeleton.retarget_matrix."""
    matrix = retarget_matrix(source.bone_lengths, target.bone_lengths)
    return torch.from_numpy(matrix).float()


def expect_unlabelled_share(unlabelled: float) -> None:
    """Rejects a share of a batch outside [0, 1)."""
    if not 0 <= unlabelled < 1:
        raise InputError(
            f"--unlabelled: expected a share of the batch from 0 to below 1, got {unlabelled}"
        )


@dataclass(frozen=True)
class Loader:
    """Draws a stage's batches.

    Args:
        data: the samples, and which labels may be used. An epoch covers all samples, however few
            are labeled.
        px: side of the network's picture in pixels.
        device: the device of the batches.
        modalities: any of "rgb" and "depth".
        augmentation: the augmentation of training batches.
        unlabelled: share of each batch drawn from unlabeled samples; 0 excludes them.
        answers: a teacher's predictions on every sample of the set, in order.
        upright: see NetConfig.upright.

    Raises:
        InputError: a set lacks one of the modalities.
    """

    data: LabelledSet
    px: int
    device: torch.device | str = "cpu"
    modalities: tuple[str, ...] = ("rgb",)
    augmentation: Augmentation = NONE
    unlabelled: float = 0.0
    answers: Pose | None = None
    upright: bool = False

    def __post_init__(self) -> None:
        self.data.expect_modalities(self.modalities)
        expect_unlabelled_share(self.unlabelled)

    def __len__(self) -> int:
        return len(self.data)

    def fetch(
        self,
        rows: Sequence[int] | np.ndarray,
        draws: torch.Generator | None = None,
        turns: Turns | None = None,
    ) -> HandBatch:
        """Returns network inputs of samples, in the bone convention of the first set.

        Args:
            rows: their indices across all sets.
            draws: the augmentation's random generator.
            turns: the virtual camera's rotations; None draws them.
        """
        numbers = np.asarray(rows)
        begin = 0
        batches = []
        for packed in self.data.parts:
            selected = numbers[(numbers >= begin) & (numbers < begin + len(packed))]
            begin += len(packed)
            if len(selected):
                batches.append((packed, selected - begin + len(packed)))
        # Later sets are fetched first; the order determines the augmentation's random draws.
        fetched = [
            self._fetch(packed, selected, draws, turns) for packed, selected in reversed(batches)
        ]
        whole, *others = reversed(fetched)
        for batch in others:
            whole = whole.join(batch)
        return whole

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
        batch = network_inputs(stored, self.px, self.augmentation, draws, turns, self.upright)
        if packed is self.data.first:
            return batch
        return batch.to_convention(convention_matrix(packed, self.data.first))

    def turns_of(self, rows: Sequence[int], angle_deg: float) -> Turns:
        """Returns camera turns by an angle for these samples of the first set."""
        turns = roll_turns(len(rows), angle_deg, self.device)
        if not self.upright:
            return turns
        numbers = np.asarray(rows)
        joints, K = (
            torch.from_numpy(array[numbers]).to(self.device)
            for array in (self.data.first.joints_mm, self.data.first.K)
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
        """Splits a batch size into the numbers of labeled and unlabeled samples."""
        if not len(self.data.without_label):
            return batch, 0
        size = min(round(batch * self.unlabelled), batch - 1)
        return batch - size, size

    def training_batch(
        self, seed: object, step: int, batch: int, fabric: Processes, stream: str = "augment"
    ) -> HandBatch:
        """This process's share of a step's batch, determined by seed, step and stream."""
        place, count = fabric.global_rank, fabric.world_size
        order_key = seed if stream == "augment" else (stream, seed)
        draws = generator(stream, seed, step, place, device=fabric.device)

        def drawn(numbers: np.ndarray, key: object, size: int) -> HandBatch:
            rows = batch_indices(key, step, len(numbers), size, place, count)
            return self.fetch(numbers[rows.numpy()], draws)

        with_label, without_label = self.shares_of(batch)
        labelled = drawn(self.data.with_label, order_key, with_label)
        if not without_label:
            return labelled
        key = ("unlabelled", order_key)
        unlabelled = drawn(self.data.without_label, key, without_label)
        mask = torch.arange(len(labelled) + len(unlabelled), device=fabric.device) < len(labelled)
        return replace(labelled.join(unlabelled), labelled=mask)


def read_answers(path: PathLike, count: int) -> Pose:
    """Reads a teacher's predictions on every sample of a set, saved by `cmkg distill --cached`.

    Raises:
        InputError: the file is missing, was changed, or covers another number of samples.
    """
    arrays = {name: torch.from_numpy(array) for name, array in read_arrays(path).items()}
    shapes = {"joints": (count, 21, 3), "uv": (count, 21, 2)}
    if "joints" not in arrays:
        raise InputError(f"{path}: expected a teacher's answers (joints, uv), found {list(arrays)}")
    for name, shape in shapes.items():
        array = arrays.get(name)
        if array is not None and (tuple(array.shape) != shape or not bool(array.isfinite().all())):
            raise InputError(
                f"{path}: field {name!r}: expected finite answers on {count} samples, found "
                f"{tuple(array.shape)}: give those of the same set, or remove it and run its stage "
                "again"
            )
    return Pose(arrays["joints"], arrays.get("uv"))
