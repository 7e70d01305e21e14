"""Labels for unlabeled photographs: a network's own answers, if they agree over many views.

Each hand is viewed unchanged, rotated both ways, zoomed, and mirrored. If the answers agree, their
mean is the label: more accurate than a single view, and a way to retain what the network knows
while it learns other things (learning without forgetting: Li and Hoiem, ECCV 2016).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from ...errors import InputError
from ..mediapipe.networks import TfliteNetwork, as_input
from ..mediapipe.palms import letterbox, palms_of
from ..mediapipe.regions import PX, Picture, Region, view_of
from ..skeleton import WRIST
from .frames import FROM_AFAR, Frames, Pictures

# The views: (rotation in radians, zoom, whether mirrored).
LOOKS = (
    (0.0, 1.0, False),
    (-0.35, 1.0, False),
    (0.35, 1.0, False),
    (0.0, 0.88, False),
    (0.0, 1.15, False),
    (0.0, 1.0, True),
    (-0.35, 1.0, True),
    (0.35, 1.0, True),
)
AGREE_PALMS, AGREE_MM = 0.06, 12.0  # largest mean distance from the mean view
LEAST_PRESENCE, LEAST_PALM, LEAST_SIDE = 0.8, 0.5, 0.8
SMALLEST_PX = 40.0  # side of the region
SAME_HAND = 0.3  # distance of two centers, as a share of a region's side


class PhotographLabels(NamedTuple):
    """Labels of hands in photographs; see frames.Frames. number: the index of the photograph."""

    number: Int[np.ndarray, " n"]
    joints_px: Float[np.ndarray, "n 21 2"]
    joints_mm: Float[np.ndarray, "n 21 3"]
    depth_px: Float[np.ndarray, "n 21"]
    is_right: Bool[np.ndarray, " n"]

    def frames(self, pictures: Sequence[Picture]) -> Frames:
        """The labels combined with the photographs."""
        return Frames(
            Pictures(lambda at: pictures[int(self.number[at])], len(self.number)),
            self.joints_px,
            self.joints_mm,
            self.depth_px,
            self.is_right,
            np.repeat(FROM_AFAR[None], len(self.number), 0),
        )


def label_photographs(
    pictures: Sequence[Picture],
    palms: TfliteNetwork,
    landmarks: TfliteNetwork,
    advance: Callable[[], None] = lambda: None,
) -> PhotographLabels:
    """The hands in photographs for which all views agree.

    Args:
        pictures: uint8 RGB.
        palms, landmarks: the networks that find hands and their joints.
        advance: called after each picture.

    Raises:
        InputError: there are no such hands.
    """
    labels: list[tuple] = []
    for number in range(len(pictures)):
        picture = pictures[number]
        labels += [(number, *label) for label in _labels_of(picture, palms, landmarks)]
        advance()
    if not labels:
        raise InputError("no photograph shows a hand of which all looks say the same")
    return PhotographLabels(*(np.array(column) for column in zip(*labels, strict=True)))


@torch.inference_mode()
def _labels_of(picture: Picture, palms: TfliteNetwork, landmarks: TfliteNetwork) -> list[tuple]:
    place = letterbox(picture)
    detection = palms(as_input(place.picture[None]))
    labels: list[tuple] = []
    middles: list[tuple[Region, np.ndarray]] = []
    for palm in palms_of(
        detection.boxes[0].numpy(), detection.scores[0].numpy(), place, LEAST_PALM
    ):
        label = _agreed(picture, palm.region, landmarks)
        if label is None:
            continue
        region = Region.of_joints(label[0])
        middle = np.array([region.x, region.y])
        if all(np.linalg.norm(middle - m) > SAME_HAND * r.side for r, m in middles):
            middles.append((region, middle))
            labels.append(label)
    return labels


def _agreed(picture: Picture, region: Region, network: TfliteNetwork) -> tuple | None:
    """The mean answer over all views of a hand; None if they do not agree."""
    first, *_ = _look(picture, region, network, LOOKS[:1])
    region = Region.of_joints(first[0])
    if region.side < SMALLEST_PX:
        return None
    answers = _look(picture, region, network, LOOKS)
    places, joints, depths = (np.array([answer[at] for answer in answers]) for at in range(3))
    presence, right = (np.array([answer[at] for answer in answers]) for at in (3, 4))
    sure_side = max(right.mean(), 1 - right.mean())
    if presence.min() < LEAST_PRESENCE or sure_side < LEAST_SIDE:
        return None
    palm = np.linalg.norm(places.mean(0)[9] - places.mean(0)[WRIST])
    off = np.linalg.norm(places - places.mean(0), axis=2).mean() / max(palm, 1.0)
    off_mm = np.linalg.norm(joints - joints.mean(0), axis=2).mean()
    if off > AGREE_PALMS or off_mm > AGREE_MM:
        return None
    return places.mean(0), joints.mean(0), depths.mean(0), bool(right.mean() > 0.5)


def _look(
    picture: Picture,
    region: Region,
    network: TfliteNetwork,
    looks: Sequence[tuple[float, float, bool]],
) -> list[tuple]:
    """For each view: places, joints in mm, depths in picture pixels, presence, is right."""
    regions = [region.changed(turn, zoom) for turn, zoom, _ in looks]
    views = [view_of(picture, changed) for changed in regions]
    seen = [v[:, ::-1] if look[2] else v for v, look in zip(views, looks, strict=True)]
    answer = network(as_input(np.stack(seen)))
    answers = []
    for at, (view_region, (_, _, is_mirrored)) in enumerate(zip(regions, looks, strict=True)):
        screen = answer.screen[at].double().numpy()
        world = 1000 * answer.world[at].double().numpy()
        right = float(answer.handedness[at])
        if is_mirrored:
            screen[:, 0] = PX - screen[:, 0]
            world[:, 0] *= -1
            right = 1 - right
        joints = view_region.to_camera(world - world[:1])
        depth = (screen[:, 2] - screen[0, 2]) * view_region.side / PX
        answers.append(
            (
                view_region.to_picture(screen[:, :2]),
                joints,
                depth,
                float(answer.presence[at]),
                right,
            )
        )
    return answers
