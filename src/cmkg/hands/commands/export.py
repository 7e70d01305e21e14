"""`cmkg export`: writes an adapted hand network as a file that MediaPipe reads."""

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
    """Export an adapted hand network for MediaPipe."""

    weights: str = ""
    """Folder written by `cmkg adapt`. Empty: the network that ships with cmkg."""
    tflite: str = ""
    """Output file: the adapted landmark network, a replacement for MediaPipe's."""
    task: str = ""
    """Output file: a bundle for MediaPipe Tasks with the palm network and the adapted landmark
    network; with --into, your own bundle with the adapted network inserted."""
    into: str = ""
    """Your own file, which is read and not modified: a hand_landmarker.task with --task, a
    hand_landmark_*.tflite with --tflite. Every byte except the weights is kept."""

    def expect_possible(self) -> None:
        """Refuses settings that name no output file, or two.

        Raises:
            InputError: the message says which option to give.
        """
        if bool(self.tflite) == bool(self.task):
            raise InputError("cmkg export: give either --tflite FILE or --task FILE to write")


def run(config: ExportHand) -> None:
    """Writes the file.

    Raises:
        InputError: the folder holds no hand network, or --into holds a different network.
    """
    config.expect_possible()
    folder = Path(config.weights or OWN)
    read_hand_folder(folder)  # checks that the folder is complete and its graph known
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
    """The user's own file with the adapted weights."""
    remedy = "give MediaPipe's own file"
    if config.task:
        bundle = read_file(config.into, "a .task bundle", remedy, MOST_BUNDLE_BYTES)
        return with_taught_network(bundle, config.into, taught, taught.weights())
    original = TfliteFile(read_file(config.into, "a .tflite file", remedy, MOST_BYTES), config.into)
    expect_same_graph(original, taught)
    return original.with_weights(taught.weights())


SETTINGS = ExportHand
