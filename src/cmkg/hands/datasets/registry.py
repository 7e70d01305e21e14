"""The datasets that can be read, by name. A new one is its reader's file and one entry here."""

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
    """How a dataset lies on disk.

    open: opens it, with the keywords root, split, px, margin, complete and those of `options`.
    splits: their names, the first is taken when none is asked for; () where the set names its own.
    options: {setting: its values} that only this dataset has, the default first.
    """

    open: Callable[..., Recording]
    splits: tuple[str, ...]
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def open_packed(root: str, split: str, px: int, margin: float, complete: bool) -> Recording:
    """A packed set, as a recording.

    Raises:
        InputError: it was asked for in another form than it was packed in.
    """
    if (px, margin, split, complete) != (DEFAULT_PX, DEFAULT_MARGIN, "", True):
        raise InputError(
            "--dataset packed: keeps its pixels, margin and split; leave --px, --margin, --split "
            "and --only-present out"
        )
    return Unpacked(root)


def without_complete(reader: Callable[..., Recording]) -> Callable[..., Recording]:
    """The reader of a dataset whose own lists say which samples there are."""

    def open_recording(complete: bool, **settings: Any) -> Recording:
        return reader(**settings)

    return open_recording


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
    """A dataset on disk.

    Args:
        name: a key of DATASETS.
        root: its folder.
        split: which part; empty is the first.
        px: pixels a side of the stored pictures.
        margin: how many of the protocol's boxes they show.
        complete: refuses a partial copy.
        options: settings that only some datasets have; empty ones take the default.

    Raises:
        InputError: there is no such dataset, split or setting.
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
            raise InputError(f"--{option}: is of {' and '.join(owners)} alone; leave it out")
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


def describe_splits() -> str:
    """The splits of each dataset, for a command's help."""
    known = {name: ", ".join(filter(None, kind.splits)) for name, kind in DATASETS.items()}
    return "; ".join(f"{name}: {splits}" for name, splits in known.items() if splits)
