"""`cmkg predict`: finds the 21 joints of each hand in photographs, videos or a camera stream."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import Annotated, Any, Literal

import cv2
import numpy as np
import tyro

from ...errors import InputError
from ...runtime.checks import expect_from_zero
from ...runtime.files import read_json, write_json, write_text
from ...runtime.locks import expect_own_folder
from ...runtime.progress import Bar, note
from ...runtime.signals import Stopped
from ...runtime.text import printable
from ..geometry import is_camera
from ..inference.drawing import draw_hands
from ..inference.exchange import FORMAT, csv_of, document_of, record_of
from ..inference.hand import OWN, Box, Hand, Thresholds
from ..inference.hand_result import Side
from ..inference.picture_view import PictureView, expect_box
from ..inference.pictures import PICTURES, list_files, write_picture
from ..inference.tracker import Tracker
from ..inference.videos import VIDEOS, Video, VideoFile

AnySide = Literal["any", "right", "left"]
RESULT = "hands.json"
MARKS = (RESULT,)  # identify a folder written by an earlier prediction
NAMED = 5  # at most so many files without a hand are printed
LONGEST_NAME = 120  # bytes; file systems allow 255, which includes the suffixes appended here
CAMERA = "camera"  # as a path: the first camera; camera1 is the second


@dataclass(frozen=True)
class Predict:
    """Find hands in pictures, videos or a camera stream, and write their joints."""

    paths: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Pictures, videos, or folders of them. `camera` is the first camera, `camera1` the second;
    press Ctrl-C to stop."""
    weights: str = ""
    """Folder written by `cmkg adapt` or `cmkg export`. Empty: the network that ships with cmkg."""
    out: str = "hands"
    """Output folder for hands.json, hands.csv and the pictures with skeletons."""
    side: AnySide = "any"
    """Keep only hands that look like right, or left, hands."""
    known_side: AnySide = "any"
    """The side of all hands, if known; it overrides the predicted side."""
    max_hands: int = 4
    """Maximum number of hands per picture; the most confident are kept."""
    palm_score: float | None = None
    """Minimum score of a palm detected in the whole picture. None: the value chosen by `cmkg
    adapt`, or 0.5."""
    presence: float = 0.5
    """Minimum probability, from the landmark network, that a detection is a hand."""
    looks: Literal[1, 3] = 1
    """Passes over each hand in a picture: 3 passes are averaged, which is slower and more
    accurate."""
    box: str = ""
    """x,y,width,height in pixels: the approximate box of the only hand in every picture. Empty:
    hands are detected in the whole picture."""
    camera: str = ""
    """fx,fy,cx,cy in pixels: the camera's intrinsics, to locate the wrist in space. Empty: a
    typical lens is assumed."""
    bone_mm: float = 0.0
    """Length in mm from the middle finger's knuckle to its next joint, measured with the finger
    bent. 0: the length of a typical hand."""
    overlays: bool = True
    """Write the pictures with skeletons."""
    steady: bool = True
    """Smooth the joints of videos over time (one-euro filter)."""
    most_frames: int = 0
    """Maximum number of frames of a video or camera; 0 = all."""

    def __post_init__(self) -> None:
        expect_from_zero(self, "bone_mm", "most_frames")
        if not self.paths:
            raise InputError("cmkg predict: give pictures, videos, folders, or the word camera")


def run(config: Predict) -> None:
    """Writes the hands found; continues after a file that cannot be read.

    Raises:
        InputError: raised at the end if files could not be read.
        Stopped: Ctrl-C was pressed before the last file was complete; results so far are written.
    """
    hand = Hand.from_pretrained(
        config.weights or OWN,
        bone_mm=config.bone_mm or None,
        max_hands=config.max_hands,
        thresholds=Thresholds(config.palm_score, config.presence),
        looks=config.looks,
    )
    box = expect_box(frame_numbers("--box", config.box)) if config.box else None
    K = camera_of(frame_numbers("--camera", config.camera)) if config.camera else None
    sources = list(sources_of(config.paths))
    out = Path(config.out)
    if (out / RESULT).exists() and not is_result(out / RESULT):
        raise InputError(
            f"--out {out}: holds something else ({RESULT}); give an empty or a new one"
        )
    expect_own_folder(out, None, MARKS)  # overlays are named after the pictures
    sources = [source for source in sources if isinstance(source, int) or not lies_in(source, out)]
    out.mkdir(parents=True, exist_ok=True)
    records: list[dict[str, Any]] = []
    without: list[str] = []
    if not (out / RESULT).exists():  # marks the folder as ours before any work
        write_json(out / RESULT, document_of(records, hand.bone_mm, without))
    failed: list[str] = []
    taken: set[str] = set()

    def keep(source: Path | int, is_over: Callable[[], bool]) -> None:
        """Collects the hands of a file or camera, including those before a failing frame."""
        name = shown_name(source)
        drawn = out / overlay_name(source, taken)
        before = len(records)
        try:
            if isinstance(source, Path) and source.suffix.lower() not in VIDEOS:
                records.extend(of_picture(hand, source, name, drawn, config, box, K))
            else:
                for record in of_video(hand, source, name, drawn, config, box, K, is_over):
                    records.append(record)
            if len(records) == before:
                without.append(name)
        except (InputError, MemoryError, UnicodeError, cv2.error) as error:
            reason = "does not fit into memory" if isinstance(error, MemoryError) else str(error)
            problem = reason if name in reason else f"{name}: {reason}"
            note(problem)
            failed.append(problem)

    done = 0
    try:
        with (
            Bar("predict", len(sources), things="files", shown=len(sources) > 1) as advance,
            until_interrupted() as is_over,
        ):
            for source in sources:
                keep(source, is_over)
                advance()
                if is_over() and not isinstance(source, int):  # Ctrl-C is how a camera ends
                    break
                done += 1
                if is_over():
                    break
    finally:
        write_json(out / RESULT, document_of(records, hand.bone_mm, without))
        write_text(out / "hands.csv", csv_of(records))
    hands = f"{len(records)} hand{'' if len(records) == 1 else 's'}"
    seen = done - len(failed)
    summary = f"{out}: {hands} in {max(seen - len(without), 0)} of {len(sources)} files"
    if without:
        shown = ", ".join(without[:NAMED])
        more = f" and {len(without) - NAMED} more" if len(without) > NAMED else ""
        summary += f"; none in {len(without)}: {shown}{more} (all in {RESULT}, without_hands)"
    if done < len(sources):
        raise Stopped(int(signal.SIGINT), f"{summary}, the others were not looked at")
    print(printable(summary))
    if failed:
        raise InputError(f"{len(failed)} of {len(sources)} could not be read whole: {failed[0]}")


def of_picture(
    hand: Hand,
    path: Path,
    name: str,
    drawn: Path,
    config: Predict,
    box: Box | None,
    K: np.ndarray | None,
) -> list[dict[str, Any]]:
    """The hands of a picture, in the pixel coordinates of its file."""
    view = PictureView.of(path, K)
    results = hand.look_at(
        view,
        side=side_of(config.side),
        known_side=side_of(config.known_side),
        box=box,
    )
    overlay = f"{drawn.name}.jpg" if config.overlays else ""
    if overlay:
        write_picture(drawn.with_name(overlay), draw_hands(view.picture, results))
    return [record_of(view.in_file_pixels(pose), name, overlay=overlay) for pose in results]


def of_video(
    hand: Hand,
    source: Path | int,
    name: str,
    drawn: Path,
    config: Predict,
    box: Box | None,
    K: np.ndarray | None,
    is_over: Callable[[], bool],
) -> Iterator[dict[str, Any]]:
    """Yields the hands of each frame; writes an mp4 with skeletons."""
    video = Video(source)
    track = Tracker(
        hand,
        side=side_of(config.side),
        known_side=side_of(config.known_side),
        K=K,
        box=box,
        steady=config.steady,
    )
    overlay = f"{drawn.name}.mp4" if config.overlays else ""
    frames = min(video.count or config.most_frames, config.most_frames or video.count or 0)
    with (
        VideoFile(drawn.with_name(f"{drawn.name}.mp4"), video.hz) as file,
        Bar(Path(name).name, frames or None, things="frames") as advance,
    ):
        for number, (frame, seconds) in enumerate(video):
            results = track(frame, seconds)
            if config.overlays:
                file.write(draw_hands(frame, results))
            for pose in results:
                yield record_of(pose, name, (number, seconds), overlay)
            advance()
            if number + 1 == config.most_frames or is_over():
                break


@contextmanager
def until_interrupted() -> Iterator[Callable[[], bool]]:
    """Provides is_over(): True after Ctrl-C, so that the current video and the run end cleanly."""
    pressed: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = signal.signal(signal.SIGINT, lambda number, _frame: pressed.append(number))
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, before)


# ---- what was asked for --------------------------------------------------------------------------
def sources_of(paths: tuple[str, ...]) -> Iterator[Path | int]:
    """Files by path, and cameras by number."""
    for path in paths:
        number = path.removeprefix(CAMERA)
        if (
            path.startswith(CAMERA)
            and (not number or number.isdecimal())
            and not Path(path).exists()
        ):
            yield int(number or 0)
        else:
            yield from list_files((path,), PICTURES + VIDEOS)


def side_of(given: AnySide) -> Side | None:
    """The side in the form that Hand expects."""
    return None if given == "any" else given


def frame_numbers(flag: str, text: str) -> list[float]:
    """Four comma-separated numbers.

    Raises:
        InputError: the text is not four numbers.
    """
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != 4 or not np.isfinite(numbers).all():
        raise InputError(f"{flag} {text}: expected four numbers with commas between them")
    return numbers


def camera_of(numbers: list[float]) -> np.ndarray:
    """The intrinsic matrix K from fx, fy, cx, cy.

    Raises:
        InputError: a focal length is not positive.
    """
    fx, fy, cx, cy = numbers
    K = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])
    if not is_camera(K):
        raise InputError(f"--camera: expected positive focal lengths, got {fx:g} and {fy:g}")
    return K


def is_result(path: Path) -> bool:
    """Whether a file was written by an earlier prediction."""
    try:
        document = read_json(path, "hands")
    except InputError:
        return False
    return isinstance(document, dict) and document.get("format") == FORMAT


def lies_in(path: Path, folder: Path) -> bool:
    """Whether a file lies in a folder, however the two paths are written."""
    return folder.resolve() in path.resolve().parents


def shown_name(source: Path | int) -> str:
    """A file's name as text, even if it is not valid UTF-8."""
    if isinstance(source, int):
        return f"{CAMERA}{source}"
    return os.fsencode(source).decode("utf-8", "backslashreplace")


def overlay_name(source: Path | int, taken: set[str]) -> str:
    """A file's name without its suffix; with the suffix, then numbered, if the name is taken."""
    name = printable(shown_name(Path(source.name) if isinstance(source, Path) else source))
    name = name.replace("\n", " ")
    stem = name.rsplit(".", 1)[0] if isinstance(source, Path) else name
    numbered = (f"{name}-{number}" for number in count(2))
    for candidate in chain((stem, name), numbered):
        short = candidate.encode()[:LONGEST_NAME].decode("utf-8", "ignore")
        if short not in taken:
            break
    taken.add(short)
    return short


SETTINGS = Predict
