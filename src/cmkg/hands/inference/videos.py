"""Reads frames of videos and cameras, and writes mp4 files."""

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
from jaxtyping import Shaped

from ...errors import InputError
from ...runtime.files import write_atomically
from ...runtime.progress import note
from ...runtime.quiet import quiet_libraries
from ..mediapipe.regions import Picture

VIDEOS = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v")
USUAL_HZ = 30.0
NO_H264 = (
    "{path}: is MPEG-4, since this OpenCV writes no H.264; browsers do not play it, most players "
    "do (ffmpeg -i FILE -c:v libx264 NEW converts it)"
)
PLAIN_TEXT = re.compile(rb"[\t\n\r -~]+")


class Video:
    """The frames of a file, or of a camera given by its number.

    hz: frames per second. count: the number of frames stated in the file; None if unknown.

    Raises:
        InputError: the source cannot be opened.
    """

    def __init__(self, source: Path | int) -> None:
        self.name = f"camera {source}" if isinstance(source, int) else str(source)
        self.is_camera = isinstance(source, int)
        if isinstance(source, Path) and not source.is_file():
            raise InputError(f"{source}: no such file; expected a video")
        self._capture = _open_camera(source) if isinstance(source, int) else _open_file(source)
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

    def __iter__(self) -> Iterator[tuple[Picture, float]]:
        """Yields RGB frames and their times in seconds, from the file's start or a camera's clock.

        Raises:
            InputError: the file is truncated or has no frames, or the camera was unplugged.
        """
        number, last = 0, 0.0
        try:
            while True:
                with quiet_libraries():  # suppresses FFmpeg's messages about damaged frames
                    is_there, frame = self._capture.read()
                if not is_there:
                    break
                last = max(self._seconds_of(number), last)
                yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), last
                number += 1
        finally:
            self._capture.release()
        if self.is_camera and number:
            raise InputError(f"{self.name}: gave no frame after number {number}; is it unplugged?")
        if not number:
            raise InputError(f"{self.name}: expected frames, got none")
        # Headers sometimes count one frame too many, and other containers do not count frames.
        counts = Path(self.name).suffix.lower() in (".mp4", ".mov", ".m4v", ".avi")
        if self.count is not None and counts and number < self.count - 1:
            raise InputError(
                f"{self.name}: ends after {number} of {self.count} frames; what was read is kept"
            )

    def _seconds_of(self, number: int) -> float:
        """The time of the last frame that was read."""
        if self.is_camera:
            return time.monotonic()
        stated = float(self._capture.get(cv2.CAP_PROP_POS_MSEC)) / 1000
        return stated if stated > 0 else number / self.hz


def _open_camera(number: int) -> cv2.VideoCapture:
    with quiet_libraries():
        return cv2.VideoCapture(number)


def _open_file(path: Path) -> cv2.VideoCapture:
    """Opens a file, but nothing that the file or its name refers to.

    FFmpeg interprets `http:host:1.mp4` as an address, and follows playlists named like videos.
    """
    os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = "protocol_whitelist;file"
    with open(path, "rb") as file:
        if PLAIN_TEXT.fullmatch(file.read(64)):  # a list of other files
            raise InputError(f"{path}: expected a video, this is text")
    with tempfile.TemporaryDirectory() as home:  # OpenCV crashes on names that are not UTF-8
        plain = Path(home) / f"video{path.suffix if path.suffix.isascii() else ''}"
        plain.symlink_to(path.resolve())
        with quiet_libraries():
            return cv2.VideoCapture(f"file:{plain}", cv2.CAP_FFMPEG)


class VideoFile:
    """A context manager that writes an mp4, which appears only when it is complete.

    Args:
        path: the file to write.
        hz: frames per second.
    """

    def __init__(self, path: Path, hz: float) -> None:
        self.path, self.hz = path, hz
        self._home = tempfile.TemporaryDirectory()  # FFmpeg interprets odd names as addresses
        self.partial = Path(self._home.name) / "video.mp4"
        self.frames = 0
        self._writer: cv2.VideoWriter | None = None

    def __enter__(self) -> VideoFile:
        return self

    def write(self, frame: Shaped[np.ndarray, "h w 3"]) -> None:
        """Appends an RGB frame; an odd last row or column is dropped.

        Raises:
            OSError: this OpenCV cannot write mp4.
        """
        height, width = (length - length % 2 for length in frame.shape[:2])
        if self._writer is None:
            self._open((width, height))
        assert self._writer is not None
        self._writer.write(cv2.cvtColor(frame[:height, :width], cv2.COLOR_RGB2BGR))
        self.frames += 1

    def _open(self, size: tuple[int, int]) -> None:
        """Opens a writer for H.264, which browsers play, otherwise for MPEG-4."""
        for name in ("avc1", "mp4v"):
            code = cv2.VideoWriter.fourcc(*name)
            with quiet_libraries():
                writer = cv2.VideoWriter(str(self.partial), code, self.hz, size)
            if writer.isOpened():
                if name == "mp4v":
                    note(NO_H264.format(path=self.path))
                self._writer = writer
                return
        raise OSError(5, "could not be written as mp4", str(self.path))

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
            self._expect_written()  # a video that ends early is kept up to there
            write_atomically(self.path, partial(shutil.copyfile, self.partial))

    def _expect_written(self) -> None:
        """Verifies the frame count by rereading, since OpenCV does not report a full disk.

        Raises:
            OSError: the file has fewer frames than were written.
        """
        capture = _open_file(self.partial) if self.partial.exists() else None
        frames = 0
        while capture is not None and capture.grab():
            frames += 1
        if capture is not None:
            capture.release()
        if frames != self.frames:
            raise OSError(
                errno.ENOSPC,
                f"could not be written whole ({frames} of {self.frames} frames): is the disk full, "
                "or a quota reached?",
                str(self.path),
            )
