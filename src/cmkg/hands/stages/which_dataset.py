"""The settings that select a dataset on disk, and the function that opens it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...errors import InputError
from ..datasets.folder import Folder
from ..datasets.registry import DEFAULT_MARGIN, DEFAULT_PX, open_recording
from ..datasets.sample import Recording
from ..datasets.subset import chosen, present
from ..inference.unlabelled import assumed_joints
from .stage_settings import expect_margin

SMALLEST_PX, LARGEST_PX = 8, 1024


@dataclass(frozen=True)
class Which:
    """A dataset on disk."""

    dataset: str
    """folder: your own recordings (docs/recordings.md). rhd, stb, freihand, dexycb, ho3d or
    interhand: that dataset in its published layout. packed: a set written by `cmkg data pack` or
    `cmkg render`."""
    root: str
    """Folder of the dataset."""
    split: str = ""
    """folder: a split named in the records, otherwise train or test; fit and validation (parts of
    train); all. RHD: training, evaluation. STB: train, test. FreiHAND: train, test, evaluation.
    DexYCB: s0-train, s0-val, s0-test, s1-train, ... HO-3D: train. InterHand2.6M: train, val, test.
    Empty: the first one listed."""
    only_present: bool = False
    """For a partial copy, use only samples whose files are present; the result is marked as a
    subset."""
    indices: str = ""
    """Use only these samples of the split, such as 0-99,205; the result is marked as a subset."""
    domain: str = ""
    """FreiHAND only: gs (default), hom, sample or auto."""
    camera: str = ""
    """STB only: BB_left (default), BB_right or SK_color."""
    wrist: str = ""
    """STB only: how the wrist is derived from the palm's center: ring (default), middle or mean."""
    px: int = DEFAULT_PX
    """Width and height of the stored pictures, in pixels. Networks read px / margin of them: 320
    for networks with inputs of 256 pixels."""
    margin: float = DEFAULT_MARGIN

    def __post_init__(self) -> None:
        expect_margin(self.margin)
        if not SMALLEST_PX <= self.px <= LARGEST_PX:
            raise InputError(f"--px: expected {SMALLEST_PX} to {LARGEST_PX}, got {self.px}")


def open_dataset(which: Which) -> Recording:
    """The dataset that the settings select, or a part of it.

    Raises:
        InputError: the dataset is missing, or has no such part.
    """
    whole = open_recording(
        which.dataset,
        which.root,
        which.split,
        px=which.px,
        margin=which.margin,
        complete=not which.only_present,
        domain=which.domain,
        camera=which.camera,
        wrist=which.wrist,
    )
    if isinstance(whole, Folder):  # unlabeled records are cropped around a detected hand
        whole = replace(whole, locate=assumed_joints)
    if which.only_present:
        whole = present(whole, which.root)
    return chosen(whole, which.indices) if which.indices else whole
