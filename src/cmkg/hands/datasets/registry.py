"""The registry of readable datasets; adding one takes a reader and one entry here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...errors import InputError
from .dexycb import SPLITS as DEXYCB_SPLITS
from .dexycb import DexYcb
from .folder import Folder
from .folder_splits import ALL, FIT, TEST, TRAIN, VALIDATION
from .freihand import DOMAINS, FreiHand
from .ho3d import Ho3d
from .interhand import InterHand
from .packed.unpacked import Unpacked
from .rhd import Rhd
from .sample import Recording
from .stb import CAMERAS, WRISTS, Stb

DEFAULT_PX, DEFAULT_MARGIN = 320, 1.25


@dataclass(frozen=True)
class Layout:
    """How a dataset is opened.

    open: opens it, with the keywords root, split, px, margin, complete and those of `options`.
    splits: their names, the default first; an empty one is the dataset's own default.
    options: {setting: its values} specific to this dataset, the default first.
    """

    open: Callable[..., Recording]
    splits: tuple[str, ...]
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def open_packed(root: str, split: str, px: int, margin: float, complete: bool) -> Recording:
    """Opens a packed set as a recording.

    Raises:
        InputError: other settings were requested than those it was packed with.
    """
    if (px, margin, split, complete) != (DEFAULT_PX, DEFAULT_MARGIN, "", True):
        raise InputError(
            "--dataset packed: keeps its pixels, margin and split; leave --px, --margin, --split "
            "and --only-present out"
        )
    return Unpacked(root)


def without_complete(reader: Callable[..., Recording]) -> Callable[..., Recording]:
    """Adapts a reader that opens partial copies alike; `--only-present` then picks the samples."""

    def opener(complete: bool, **settings: Any) -> Recording:
        return reader(**settings)

    return opener


DATASETS: dict[str, Layout] = {
    "folder": Layout(without_complete(Folder), ("", TRAIN, TEST, FIT, VALIDATION, ALL)),
    "rhd": Layout(Rhd, ("training", "evaluation")),
    "stb": Layout(Stb, ("train", "test"), {"camera": tuple(CAMERAS), "wrist": WRISTS}),
    "freihand": Layout(FreiHand, ("train", "test", "evaluation"), {"domain": DOMAINS}),
    "dexycb": Layout(DexYcb.of, ("s0-train", *DEXYCB_SPLITS)),
    "ho3d": Layout(without_complete(Ho3d.of), ("train",)),
    "interhand": Layout(without_complete(InterHand), ("train", "val", "test")),
    "packed": Layout(open_packed, ("",)),
}


def open_recording(
    name: str,
    root: str,
    split: str = "",
    *,
    px: int = DEFAULT_PX,
    margin: float = DEFAULT_MARGIN,
    complete: bool = True,
    **options: str,
) -> Recording:
    """Opens a dataset on disk.

    Args:
        name: a key of DATASETS.
        root: its folder.
        split: the split; empty is the default one.
        px: side of the stored pictures in pixels.
        margin: side of the stored pictures in units of the protocol's box.
        complete: whether to reject a partial copy.
        options: dataset-specific settings; empty ones take the default.

    Raises:
        InputError: the dataset, split or setting is unknown.
    """
    if name not in DATASETS:
        raise InputError(f"--dataset: expected one of {', '.join(DATASETS)}, got {name!r}")
    layout = DATASETS[name]
    chosen = {option: values[0] for option, values in layout.options.items()}
    for option, value in options.items():
        if not value:
            continue
        if option not in layout.options:
            owners = [other for other, kind in DATASETS.items() if option in kind.options]
            known = f"only {' and '.join(owners)} has it" if owners else "no dataset has it"
            raise InputError(f"--{option}: {known}, not {name}; leave it out")
        if value not in layout.options[option]:
            raise InputError(
                f"--{option}: expected one of {', '.join(layout.options[option])}, got {value!r}"
            )
        chosen[option] = value
    return layout.open(
        root=root,
        split=split or layout.splits[0],
        px=px,
        margin=margin,
        complete=complete,
        **chosen,
    )
