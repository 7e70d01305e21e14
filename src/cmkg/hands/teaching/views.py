"""The training data of a landmark network, views of labeled frames, and the losses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..geometry import rotation_to_axis
from ..mediapipe.networks import Landmarks, as_input
from ..mediapipe.regions import PX, Picture, Region, view_of
from ..skeleton import WRIST
from .frames import Frames

WORLD_WEIGHT, SCREEN_WEIGHT, DEPTH_WEIGHT = 50.0, 1 / 6, 1 / 24  # for meters, pixels, pixels
FLAG_WEIGHT = 10.0  # for presence and handedness


@dataclass(frozen=True)
class Looks:
    """Random variation of views: standard deviations; `mirrored` is a share."""

    turn: float = 0.3
    """Rotation in radians."""
    zoom: float = 0.12
    """Deviation of the logarithm of the zoom."""
    shift: float = 0.03
    """Shift relative to the region's side."""
    mirrored: float = 0.5
    colour: float = 0.3
    noise: float = 0.02
    blurred: float = 0.2
    """Share of the views that are downsampled and upsampled again."""


STILL = Looks(0, 0, 0, 0, 0, 0, 0)


class Views(NamedTuple):
    """A batch for the network, and its targets; see networks.Landmarks.

    depth: of `screen`, relative to the wrist. is_placed: `screen` is a label.
    """

    pictures: Float[Tensor, "b 3 px px"]
    screen: Float[Tensor, "b 21 2"]
    depth: Float[Tensor, "b 21"]
    world: Float[Tensor, "b 21 3"]
    is_right: Bool[Tensor, " b"]
    is_placed: Bool[Tensor, " b"]

    def join(self, other: Views) -> Views:
        """Both batches, concatenated."""
        return Views(*(torch.cat(pair) for pair in zip(self, other, strict=True)))


def views_of(
    frames: Frames,
    numbers: Sequence[int] | np.ndarray,
    looks: Looks = STILL,
    rng: np.random.Generator | None = None,
) -> Views:
    """The network's input for frames: regions around their labels, varied at random."""
    rng = rng or np.random.default_rng(0)
    made = [_view(frames, int(number), looks, rng) for number in numbers]
    pictures, screen, depth, world, is_right = zip(*made, strict=True)

    def tensor(parts: Sequence[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.stack(parts)).float()

    return Views(
        as_input(np.stack(pictures)),
        tensor(screen),
        tensor(depth),
        tensor(world),
        torch.tensor(is_right),
        torch.full((len(made),), frames.are_placed),
    )


def _view(frames: Frames, number: int, looks: Looks, rng: np.random.Generator) -> tuple:
    joints_px = frames.joints_px[number]
    region = Region.of_joints(joints_px).changed(
        looks.turn * rng.normal(),
        float(np.exp(looks.zoom * rng.normal())),
        (looks.shift * rng.normal(), looks.shift * rng.normal()),
    )
    view = view_of(frames.pictures[number], region)
    screen = region.to_screen(joints_px)
    # The network sees the hand as if the camera pointed at it.
    ray = np.linalg.solve(frames.K[number], [region.x, region.y, 1.0])
    seen = frames.joints_mm[number] @ rotation_to_axis(ray).T
    world = region.from_camera(seen) / 1000
    depth = frames.depth_px[number] * PX / region.side
    is_right = bool(frames.is_right[number])
    if rng.random() < looks.mirrored:
        view = view[:, ::-1]
        screen = screen * [-1, 1] + [PX, 0]
        world = world * [-1, 1, 1]
        is_right = not is_right
    return _recoloured(view, looks, rng), screen, depth, world, is_right


def _recoloured(view: Picture, looks: Looks, rng: np.random.Generator) -> Picture:
    if looks.blurred and rng.random() < looks.blurred:
        px = int(rng.uniform(0.2, 0.7) * PX)
        small = cv2.resize(np.ascontiguousarray(view), (px, px), interpolation=cv2.INTER_AREA)
        view = cv2.resize(small, (PX, PX), interpolation=cv2.INTER_LINEAR)
    if not looks.colour and not looks.noise:
        return view
    gain = 1 + looks.colour * rng.uniform(-1, 1) + 0.5 * looks.colour * rng.uniform(-1, 1, 3)
    changed = view * gain.astype(np.float32) + np.float32(255 * 0.2 * looks.colour * rng.normal())
    if looks.noise:
        size = 255 * looks.noise * rng.random()
        changed = changed + np.float32(size) * rng.standard_normal(view.shape, np.float32)
    return changed.clip(0, 255).astype(np.uint8)


def pose_loss(said: Landmarks, views: Views) -> Tensor:
    """Mean distances to the labels: in 3D relative to the wrist, in the picture, and in depth."""
    world = said.world - said.world[:, WRIST : WRIST + 1]
    depth = said.screen[..., 2] - said.screen[:, WRIST : WRIST + 1, 2]
    places = (said.screen[..., :2] - views.screen).norm(dim=2).mean(1)
    return (
        WORLD_WEIGHT * (world - views.world).norm(dim=2).mean()
        + SCREEN_WEIGHT * (places * views.is_placed).mean()
        + DEPTH_WEIGHT * (depth - views.depth).abs().mean()
    )


def flag_loss(said: Landmarks, start: Landmarks, is_right: Bool[Tensor, " n"] | None) -> Tensor:
    """The squared errors of presence and handedness.

    Args:
        said: answers for n labeled views, and for places next to hands.
        start: the initial network's answers for the same, to be preserved.
        is_right: sides of the labeled views, which then count as hands of these sides; None
            preserves the initial answers for them, too.
    """
    presence, handedness = start.presence.clone(), start.handedness.clone()
    if is_right is not None:
        presence[: len(is_right)] = 1.0
        handedness[: len(is_right)] = is_right.to(handedness)
    off = (said.presence - presence).square() + (said.handedness - handedness).square()
    return FLAG_WEIGHT * off.mean()
