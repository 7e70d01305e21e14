"""`cmkg predict`: 21 joints of the hands in photographs, folders, videos, or before a camera."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import tyro

from ...errors import InputError
from ...runtime.checks import expect_from_zero
from ...runtime.files import read_json, write_json, write_text
from ...runtime.locks import expect_own_folder
from ...runtime.progress import Bar, note
from ...runtime.stopping import Stopped
from ...runtime.text import printable
from ..geometry import is_camera
from ..inference.drawing import draw_hands
from ..inference.exchange import FORMAT, csv_of, document_of, record_of
from ..inference.hand import (
    OWN,
    Hand,
    Sides,
    expect_box,
    in_file_pixels,
    smaller_box,
    smaller_camera,
)
from ..inference.pictures import PICTURES, list_files, read_with_scale, write_picture
from ..inference.seeing import Box
from ..inference.videos import VIDEOS, Follower, Video, VideoFile

RESULT = "hands.json"
MARKS = (RESULT,)  # of a folder that an earlier prediction wrote
LONGEST_NAME = 120  # bytes; 255 with all that is put behind it is what disks take
CAMERA = "camera"  # as a path: the first one; camera1 the second


@dataclass(frozen=True)
class Predict:
    """Settings of a prediction."""

    paths: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Pictures, videos, folders of them; `camera` is the first camera, `camera1` the second, until
    Ctrl-C."""
    weights: str = ""
    """A folder that `cmkg export` wrote; empty = the student that comes with cmkg."""
    out: str = "hands"
    """Folder for hands.json, hands.csv and the pictures with skeletons."""
    side: Sides = "auto"
    """Of the hands; auto tries both."""
    box: str = ""
    """x,y,width,height in pixels: the rough box of the one hand in every picture; empty looks for
    hands in the whole picture."""
    camera: str = ""
    """fx,fy,cx,cy in pixels: gives where the wrist is, too; empty assumes a usual lens."""
    bone_mm: float = 0.0
    """What a ruler says from the middle finger's knuckle to its next joint, the finger bent; 0
    takes the people that the student was trained on."""
    overlays: bool = True
    """Write the pictures with skeletons."""
    steady: bool = True
    """Of videos: joints do not tremble (one-euro filter)."""
    most_frames: int = 0
    """Of a video or camera; 0 = all."""

    def __post_init__(self) -> None:
        expect_from_zero(self, "bone_mm", "most_frames")
        if not self.paths:
            raise InputError("cmkg predict: give pictures, videos, folders, or the word camera")


def run(config: Predict) -> None:
    """Writes what was found; goes on after a file that cannot be read.

    Raises:
        InputError: at the end, where files could not be read.
        Stopped: Ctrl-C came before the last file was over; what was found is written.
    """
    hand = Hand.from_pretrained(config.weights or OWN, config.bone_mm or None)
    box = expect_box(numbers_of("--box", config.box)) if config.box else None
    K = camera_of(numbers_of("--camera", config.camera)) if config.camera else None
    sources = list(sources_of(config.paths))
    out = Path(config.out)
    if (out / RESULT).exists() and not is_result(out / RESULT):
        raise InputError(
            f"--out {out}: holds something else ({RESULT}); give an empty or a new one"
        )
    expect_own_folder(out, None, MARKS)  # overlays have the pictures' names
    sources = [one for one in sources if isinstance(one, int) or not lies_in(one, out)]
    out.mkdir(parents=True, exist_ok=True)
    records: list[dict[str, Any]] = []
    if not (out / RESULT).exists():  # the folder is ours from now on, whatever happens
        write_json(out / RESULT, document_of(records, hand.bone_mm))
    failed: list[str] = []
    taken: set[str] = set()

    def keep(source: Path | int, is_over: Callable[[], bool]) -> None:
        """One file's or camera's hands; those of frames before a mistake are kept, too."""
        name = shown_name(source)
        drawn = out / overlay_name(source, taken)
        try:
            if isinstance(source, Path) and source.suffix.lower() not in VIDEOS:
                records.extend(of_picture(hand, source, name, drawn, config, box, K))
            else:
                for record in of_video(hand, source, name, drawn, config, box, K, is_over):
                    records.append(record)
        except (InputError, MemoryError, UnicodeError, cv2.error) as error:
            reason = "does not fit into memory" if isinstance(error, MemoryError) else str(error)
            said = reason if name in reason else f"{name}: {reason}"
            note(said)
            failed.append(said)

    done = 0
    try:
        with (
            Bar("predict", len(sources), things="files", shown=len(sources) > 1) as advance,
            until_interrupted() as is_over,
        ):
            for source in sources:
                keep(source, is_over)
                advance()
                if is_over() and not isinstance(source, int):  # a camera ends by Ctrl-C
                    break
                done += 1
                if is_over():
                    break
    finally:
        write_json(out / RESULT, document_of(records, hand.bone_mm))
        write_text(out / "hands.csv", csv_of(records))
    hands = f"{len(records)} hand{'' if len(records) == 1 else 's'}"
    said = f"{out}: {hands} in {done - len(failed)} of {len(sources)} files"
    if done < len(sources):
        raise Stopped(int(signal.SIGINT), f"{said}, the others were not looked at")
    print(printable(said))
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
    """The hands of a picture, in the pixels of its file."""
    picture, scale = read_with_scale(path)
    smaller = None if box is None else smaller_box(box, scale).corner_and_size()
    camera = None if K is None else smaller_camera(K, scale)
    results = hand(picture, side=config.side, box=smaller, K=camera)
    if config.overlays:
        write_picture(drawn.with_name(f"{drawn.name}.jpg"), draw_hands(picture, results))
    return [record_of(in_file_pixels(one, scale), name) for one in results]


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
    """The hands of each frame; a skeleton over each in an mp4."""
    video = Video(source)
    follow = Follower(hand, video.hz, config.side, K, config.steady, box, video.is_camera)
    count = min(video.count or config.most_frames, config.most_frames or video.count or 0)
    with (
        VideoFile(drawn.with_name(f"{drawn.name}.mp4"), video.hz) as file,
        Bar(Path(name).name, count or None, things="frames") as advance,
    ):
        for number, frame in enumerate(video):
            results = follow(frame)
            if config.overlays:
                file.write(draw_hands(frame, results))
            yield from (record_of(one, name, number) for one in results)
            advance()
            if number + 1 == config.most_frames or is_over():
                break


@contextmanager
def until_interrupted() -> Iterator[Callable[[], bool]]:
    """Gives is_over(): True after Ctrl-C, which then ends a video, and the whole, in order."""
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
    """Files, and cameras by their number."""
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


def numbers_of(flag: str, text: str) -> list[float]:
    """Four numbers between commas.

    Raises:
        InputError: these are none.
    """
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != 4 or not np.isfinite(numbers).all():
        raise InputError(f"{flag} {text}: expected four numbers with commas between them")
    return numbers


def camera_of(numbers: list[float]) -> np.ndarray:
    """K of fx, fy, cx, cy.

    Raises:
        InputError: a focal length is not positive.
    """
    fx, fy, cx, cy = numbers
    K = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])
    if not is_camera(K):
        raise InputError(f"--camera: expected positive focal lengths, got {fx:g} and {fy:g}")
    return K


def is_result(path: Path) -> bool:
    """Whether a file is what an earlier prediction wrote."""
    try:
        held = read_json(path, "hands")
    except InputError:
        return False
    return isinstance(held, dict) and held.get("format") == FORMAT


def lies_in(path: Path, folder: Path) -> bool:
    """Whether a file lies in a folder, however the two are spelled."""
    return folder.resolve() in path.resolve().parents


def shown_name(source: Path | int) -> str:
    """A file's name as text, whatever its bytes are."""
    if isinstance(source, int):
        return f"{CAMERA}{source}"
    return os.fsencode(source).decode("utf-8", "backslashreplace")


def overlay_name(source: Path | int, taken: set[str]) -> str:
    """A file's own name, with a number where another file has it already; short enough to grow."""
    stem = printable(shown_name(Path(source.stem) if isinstance(source, Path) else source))
    stem = stem.replace("\n", " ").encode()[:LONGEST_NAME].decode("utf-8", "ignore")
    name, number = stem, 1
    while name in taken:
        number += 1
        name = f"{stem}-{number}"
    taken.add(name)
    return name
