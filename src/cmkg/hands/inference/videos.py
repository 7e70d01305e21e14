"""Videos and cameras: frames in, hands followed from frame to frame, an mp4 out."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np
from jaxtyping import Float, Shaped

from ...errors import InputError
from ...runtime.files import write_atomically
from .hand import Hand, HandResult, Sides
from .seeing import Box, Picture
from .steady import SteadyHand

VIDEOS = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v")
USUAL_HZ = 30.0
PLAIN_TEXT = re.compile(rb"[\t\n\r -~]+")
LOOK_EVERY = 30  # frames between two looks for more hands, while some are followed


class Video:
    """Frames of a file, or of a camera by its number.

    hz: frames a second. count: how many the file says it has; None where nobody knows.

    Raises:
        InputError: it cannot be opened.
    """

    def __init__(self, source: Path | int) -> None:
        self.name = f"camera {source}" if isinstance(source, int) else str(source)
        self.is_camera = isinstance(source, int)
        if isinstance(source, Path) and not source.is_file():
            raise InputError(f"{source}: no such file; expected a video")
        self._capture = cv2.VideoCapture(source) if isinstance(source, int) else _open_file(source)
        if not self._capture.isOpened():
            what = (
                "no such camera, or another program has it"
                if isinstance(source, int)
                else "expected a video, could not open it"
            )
            raise InputError(f"{self.name}: {what}")
        hz = self._capture.get(cv2.CAP_PROP_FPS)
        self.hz = float(hz) if np.isfinite(hz) and 1 <= hz <= 1000 else USUAL_HZ
        count = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.count = count if count > 0 and not self.is_camera else None

    def __iter__(self) -> Iterator[Picture]:
        """The frames, RGB.

        Raises:
            InputError: it ends before its last frame, or has none; the camera was unplugged.
        """
        number = 0
        try:
            while True:
                is_there, frame = self._capture.read()
                if not is_there:
                    break
                yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
                number += 1
        finally:
            self._capture.release()
        if self.is_camera and number:
            raise InputError(f"{self.name}: gave no frame after number {number}; is it unplugged?")
        if not number:
            raise InputError(f"{self.name}: expected frames, got none")
        # Headers count one too many at times, and other containers than these do not count at all.
        counts = Path(self.name).suffix.lower() in (".mp4", ".mov", ".m4v", ".avi")
        if self.count is not None and counts and number < self.count - 1:
            raise InputError(
                f"{self.name}: ends after {number} of {self.count} frames; what was read is kept"
            )


def _open_file(path: Path) -> cv2.VideoCapture:
    """A capture of a file, and of nothing that the file or its name points to.

    FFmpeg takes `http:host:1.mp4` for an address, and follows a playlist that is called a video.
    """
    os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = "protocol_whitelist;file"
    with open(path, "rb") as file:
        if PLAIN_TEXT.fullmatch(file.read(64)):  # a list of other files
            raise InputError(f"{path}: expected a video, this is text")
    with tempfile.TemporaryDirectory() as home:  # OpenCV dies of a name that is not UTF-8
        plain = Path(home) / f"video{path.suffix if path.suffix.isascii() else ''}"
        plain.symlink_to(path.resolve())
        return cv2.VideoCapture(f"file:{plain}", cv2.CAP_FFMPEG)


class VideoFile:
    """An mp4 that is there when its last frame is; a context that gives write(frame).

    Args:
        path: of the file.
        hz: frames a second.
    """

    def __init__(self, path: Path, hz: float) -> None:
        self.path, self.hz = path, hz
        self._home = tempfile.TemporaryDirectory()  # FFmpeg takes odd names for addresses
        self.partial = Path(self._home.name) / "video.mp4"
        self.frames = 0
        self._writer: cv2.VideoWriter | None = None

    def __enter__(self) -> VideoFile:
        return self

    def write(self, frame: Shaped[np.ndarray, "h w 3"]) -> None:
        """Appends an RGB frame; an odd row or column is left out.

        Raises:
            OSError: this OpenCV cannot write mp4.
        """
        height, width = (length - length % 2 for length in frame.shape[:2])
        if self._writer is None:
            code = cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(str(self.partial), code, self.hz, (width, height))
            if not self._writer.isOpened():
                raise OSError(5, "could not be written as mp4", str(self.path))
        self._writer.write(cv2.cvtColor(frame[:height, :width], cv2.COLOR_RGB2BGR))
        self.frames += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._home:
            if self._writer is None:
                return
            self._writer.release()
            self._expect_written()  # of a video that ends early what there is
            write_atomically(self.path, partial(shutil.copyfile, self.partial))

    def _expect_written(self) -> None:
        """OpenCV does not say that the disk is full: the file is read again.

        Raises:
            OSError: it has fewer frames than were written.
        """
        held = _open_file(self.partial) if self.partial.exists() else None
        frames = 0
        while held is not None and held.grab():
            frames += 1
        if held is not None:
            held.release()
        if frames != self.frames:
            raise OSError(
                errno.ENOSPC,
                f"could not be written whole ({frames} of {self.frames} frames): is the disk full, "
                "or a quota reached?",
                str(self.path),
            )


class Follower:
    """The hands of a video, frame by frame: found once, then followed by their last joints.

    Args:
        hand: the student.
        hz: frames a second.
        side: of the hands, see Hand.
        K: of the camera; None assumes a usual lens.
        steady: the one-euro filter over time.
        box: of the one hand in the first frame; None looks for all.
        is_live: frames come when they come: the time between them is measured.
    """

    def __init__(
        self,
        hand: Hand,
        hz: float,
        side: Sides = "auto",
        K: Float[np.ndarray, "3 3"] | None = None,
        steady: bool = True,
        box: Box | None = None,
        is_live: bool = False,
    ) -> None:
        self.hand, self.side, self.K, self.steady = hand, side, K, steady
        self.seconds = 1 / hz
        self.is_live, self.last = is_live, 0.0
        self.box = box  # of the first frame alone: afterwards the hand is looked for everywhere
        self.frame = 0
        self.hands: list[tuple[HandResult, SteadyHand]] = []

    def __call__(self, picture: Picture) -> list[HandResult]:
        """The hands of the next frame."""
        if self.is_live:
            now = time.monotonic()
            self.seconds, self.last = (now - self.last if self.frame else self.seconds), now
        followed: list[tuple[HandResult, SteadyHand]] = []
        for last, filters in self.hands:
            found = self.hand.follow(picture, last, self.K)
            if found is not None and not _among(found, [one for one, _ in followed]):
                followed.append((found, filters))
        if not followed or (self.box is None and self.frame % LOOK_EVERY == 0):
            first = self.box is not None and self.frame == 0
            box = self.box.corner_and_size() if first and self.box else None
            found_now = self.hand(picture, side=self.side, box=box, K=self.K)
            for found in found_now[: 1 if self.box else None]:
                if not _among(found, [one for one, _ in followed]):
                    followed.append((found, SteadyHand.new()))
        self.hands = followed
        self.frame += 1
        if not self.steady:
            return [found for found, _ in followed]
        return [filters(found, self.seconds) for found, filters in followed]


def _among(result: HandResult, others: list[HandResult]) -> bool:
    own = Box.of_joints(result.joints_px)
    return any(own.is_same_hand(Box.of_joints(one.joints_px)) for one in others)
