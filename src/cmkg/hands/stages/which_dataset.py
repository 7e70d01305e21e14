"""Which dataset on disk a command is about: its settings, and the dataset they name."""

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
    """folder: anyone's recordings (docs/recordings.md); rhd, stb, freihand, dexycb, ho3d or
    interhand: that dataset as its owners publish it; packed: a set that `cmkg data pack` or `cmkg
    render` wrote."""
    root: str
    """Its folder."""
    split: str = ""
    """Folder: a split that its records name, else train or test; fit, validation (parts of train);
    all. RHD: training, evaluation. STB: train, test. FreiHAND: train, test, evaluation. DexYCB:
    s0-train, s0-val, s0-test, s1-train, ... HO-3D: train. InterHand2.6M: train, val, test. Empty =
    the first."""
    only_present: bool = False
    """Of a partial copy, take the samples whose files are there: a subset, and labelled as one."""
    indices: str = ""
    """Only these samples of the split, such as 0-99,205: a subset, and labelled as one."""
    domain: str = ""
    """FreiHAND alone: gs (default), hom, sample or auto."""
    camera: str = ""
    """STB alone: BB_left (default), BB_right or SK_color."""
    wrist: str = ""
    """STB alone: how the wrist follows from the palm's centre: ring (default), middle or mean."""
    px: int = DEFAULT_PX
    """Stored pixels; networks read px / margin of them: 320 for networks of 256."""
    margin: float = DEFAULT_MARGIN

    def __post_init__(self) -> None:
        expect_margin(self.margin)
        if not SMALLEST_PX <= self.px <= LARGEST_PX:
            raise InputError(f"--px: expected {SMALLEST_PX} to {LARGEST_PX}, got {self.px}")


def open_dataset(which: Which) -> Recording:
    """The dataset that the settings name, or the part of it.

    Raises:
        InputError: it is not there, or has no such part.
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
    if isinstance(whole, Folder):  # records without a label are cropped where a hand is found
        whole = replace(whole, locate=assumed_joints)
    if which.only_present:
        whole = present(whole, which.root)
    return chosen(whole, which.indices) if which.indices else whole
