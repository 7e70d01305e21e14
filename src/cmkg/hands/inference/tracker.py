"""Tracker: follows the hands of a video or camera, frame by frame."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from ...errors import InputError
from ..mediapipe.backend import Answer
from .hand import Box, Hand, expect_side, is_among
from .hand_result import HandResult, Side
from .picture_view import expect_box, expect_camera, to_rgb
from .steady import SteadyHand

SIDE_MEMORY = 0.9  # weight of the last frame's probability of a right hand
LONGEST_GAP_S = 1.0  # a longer gap resets the filters


@dataclass
class _Track:
    """A tracked hand; `right` is its smoothed probability of being a right hand."""

    number: int
    last: HandResult
    right: float
    filters: SteadyHand = field(default_factory=SteadyHand.new)


class Tracker:
    """Tracks hands: each is detected once, then searched for around its last joints.

        track = Tracker(Hand.from_pretrained())
        for picture, seconds in camera:
            for hand in track(picture, seconds):
                print(hand.track, hand.side, hand.joints_px)

    Args:
        hand: provides the networks, the thresholds and the maximum number of hands.
        side, known_side, K: as for Hand's call.
        box: box of a single hand in the first frame; None searches for all hands.
        steady: whether to apply the one-euro filter.
        search_every: frames between searches for more hands while some are tracked.

    Raises:
        InputError: a side, box or camera is invalid.
    """

    def __init__(
        self,
        hand: Hand,
        *,
        side: Side | None = None,
        known_side: Side | None = None,
        K: Float[np.ndarray, "3 3"] | None = None,
        box: Box | None = None,
        steady: bool = True,
        search_every: int = 10,
    ) -> None:
        expect_side("side", side)
        expect_side("known_side", known_side)
        if search_every < 1:
            raise InputError(f"search_every: expected 1 frame or more, got {search_every}")
        self.hand, self.side, self.known_side = hand, side, known_side
        self.K = None if K is None else expect_camera(K)
        self.box = None if box is None else expect_box(box)
        self.steady, self.search_every = steady, search_every
        self.frame, self.tracks, self._count = 0, list[_Track](), 0
        self._seconds: float | None = None

    def __call__(self, picture: Any, seconds: float | None = None) -> list[HandResult]:
        """Returns the hands of the next frame.

        Args:
            picture: (H, W, 3) uint8 RGB, or a PIL image.
            seconds: its time on any monotonic clock; None is now.

        Raises:
            InputError: the picture is invalid, or its time precedes the last one's.
        """
        seen = to_rgb(picture)
        passed = self._passed(time.monotonic() if seconds is None else float(seconds))
        answers: list[Answer] = []
        kept: list[tuple[_Track, Answer]] = []
        for track in self.tracks:
            answer = self.hand.follow(seen, track.last)
            if answer is not None and not is_among(answer, answers):
                kept.append((track, answer))
                answers.append(answer)
        is_turn = self.frame % self.search_every == 0 and len(kept) < self.hand.max_hands
        if not kept or (is_turn and self.box is None):
            for answer in self._search(seen)[: self.hand.max_hands - len(kept)]:
                if not is_among(answer, answers):
                    kept.append((self._new(answer), answer))
                    answers.append(answer)
        self.frame += 1
        self.tracks = [track for track, _ in kept]
        results = [self._result(track, answer, passed) for track, answer in kept]
        return [result for result in results if self.side in (None, result.side)]

    def _passed(self, seconds: float) -> float:
        """The time since the last frame, in seconds."""
        last, self._seconds = self._seconds, seconds
        if last is None:
            return 0.0
        if not seconds >= last:
            raise InputError(f"seconds: {seconds} is before the last frame's {last}")
        return seconds - last

    def _search(self, picture: np.ndarray) -> list[Answer]:
        if self.box is not None and self.frame == 0:
            return self.hand.likeliest(picture, self.hand.regions_in(picture, self.box))
        answers = self.hand.find(picture)
        return answers[:1] if self.box is not None else answers

    def _new(self, answer: Answer) -> _Track:
        self._count += 1
        result = self.hand.result_of(answer, self.known_side, self.K)
        return _Track(self._count, result, answer.right)

    def _result(self, track: _Track, answer: Answer, passed: float) -> HandResult:
        track.right = SIDE_MEMORY * track.right + (1 - SIDE_MEMORY) * answer.right
        smoothed = answer._replace(right=track.right)
        result = self.hand.result_of(smoothed, self.known_side, self.K)
        track.last = replace(result, track=track.number)
        if not self.steady:
            return track.last
        if passed > LONGEST_GAP_S:
            track.filters = SteadyHand.new()
        return track.filters(track.last, passed)
