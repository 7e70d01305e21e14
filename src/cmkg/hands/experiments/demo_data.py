"""The packed sets of an experiment: rendered, or from a folder of recordings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..commands import render
from ..datasets.folder import Folder
from ..datasets.folder_splits import FIT, TEST, TRAIN
from ..datasets.packed.pack import pack
from ..datasets.subset import Subset
from ..rendering.scenes import SceneConfig
from .rows import Blocks

FIRST_TEST_SCENE = 10_000_000


SEQUENCES, TEST_SEQUENCES = 4, 2  # in a rendered target


TARGET_SEED, WIDE_SEED = 1, 2  # offsets from the source's seed


def pack_folder(root: str, data: Path, px: int) -> Blocks:
    """Packs the labeled records of a folder's train and test splits."""
    for name, split in (("target", TRAIN), ("target-test", TEST)):
        pack(records_with_label(Folder(root, split, px)), data / name)
    fit, train = (len(records_with_label(Folder(root, split, px))) for split in (FIT, TRAIN))
    return Blocks((0, fit), (fit, train))


def records_with_label(folder: Folder) -> Folder | Subset:
    """The folder, or the subset of its records that have a label."""
    numbers = tuple(i for i in range(len(folder)) if folder.has_label(i))
    return folder if len(numbers) == len(folder) else Subset(folder, numbers, "those with a label")


def draw_sequences(
    scene: SceneConfig,
    data: Path,
    frames: int,
    test_frames: int,
    sequences: int = SEQUENCES,
    test_sequences: int = TEST_SEQUENCES,
) -> Blocks:
    """Renders an STB-like target: sequences for training, and others for the test.

    Each sequence has its own background; the last quarter of the training sequences validates.
    """
    train = replace(scene, frames=frames, sequences=sequences)
    test = replace(scene, frames=test_frames, sequences=test_sequences, sequence_offset=sequences)
    render.run(render.Render(str(data / "target"), sequences * frames, scene=train))
    render.run(render.Render(str(data / "target-test"), test_sequences * test_frames, scene=test))
    return Blocks.last_quarter(sequences * frames)
