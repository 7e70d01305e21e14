"""`cmkg export`: a taught hand network as the file that MediaPipe reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...errors import InputError
from ...runtime.checks import expect_new_file
from ...runtime.files import read_file, write_bytes
from ...runtime.text import printable
from ..files.exports import LANDMARKS_FILE, PALMS_FILE, read_own_file
from ..inference.hand import OWN
from ..inference.hand_files import read_hand_folder
from ..mediapipe.task_files import bundle_of, with_taught_network
from ..mediapipe.tflite_files import MOST_BYTES, TfliteFile, expect_same_graph

MOST_BUNDLE_BYTES = 2 * MOST_BYTES


@dataclass(frozen=True)
class ExportHand:
    """Settings of an export."""

    weights: str = ""
    """A folder that `cmkg adapt` wrote; empty = what comes with cmkg."""
    tflite: str = ""
    """File to write: the taught landmark network, to use in place of MediaPipe's."""
    task: str = ""
    """File to write: a bundle for MediaPipe's Tasks, of the palm network and the taught one; or,
    with --into, your own bundle with the taught network inside."""
    into: str = ""
    """Your own file, which is read and not changed: with --task a hand_landmarker.task, with
    --tflite a hand_landmark_*.tflite. Every byte but the weights is kept."""

    def expect_possible(self) -> None:
        """Refuses files that cannot be written.

        Raises:
            InputError: it says what to give.
        """
        if bool(self.tflite) == bool(self.task):
            raise InputError("cmkg export: give either --tflite FILE or --task FILE to write")


def run(config: ExportHand) -> None:
    """Writes the file.

    Raises:
        InputError: no hand in the folder, or --into has another network.
    """
    config.expect_possible()
    folder = Path(config.weights or OWN)
    read_hand_folder(folder)  # whole, and of a known graph
    data = read_own_file(folder, LANDMARKS_FILE, "a network's file")
    taught = TfliteFile(data, str(folder / LANDMARKS_FILE))
    out = Path(config.task or config.tflite)
    sources = [str(folder), *filter(None, [config.into])]
    expect_new_file(out, ".task" if config.task else ".tflite", *sources)
    if config.into:
        data = _changed(config, taught)
    elif config.task:
        data = bundle_of(read_own_file(folder, PALMS_FILE, "a network's file"), data)
    write_bytes(out, data)
    print(printable(f"{out}: {len(data):,} bytes; docs/mediapipe.md says in which line it goes"))


def _changed(config: ExportHand, taught: TfliteFile) -> bytes:
    """The user's own file with the taught weights."""
    remedy = "give MediaPipe's own file"
    if config.task:
        bundle = read_file(config.into, "a .task bundle", remedy, MOST_BUNDLE_BYTES)
        return with_taught_network(bundle, config.into, taught, taught.weights())
    own = TfliteFile(read_file(config.into, "a .tflite file", remedy, MOST_BYTES), config.into)
    expect_same_graph(own, taught)
    return own.with_weights(taught.weights())


SETTINGS = ExportHand
