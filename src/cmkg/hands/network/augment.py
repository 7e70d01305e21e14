"""Converts packed pictures to network inputs, on the batch's device.

RGB, depth and joints of a sample share one homography. Rotating the virtual camera (in-plane, or
with a small tilt for a shift) and zooming it are exact for the picture, so the 3D joints rotate
with it and depth is measured along the new axis.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor

from ...runtime.checks import expect_between
from ..skeleton import MIDDLE_MCP, WRIST, bone_scale
from .pose import HandBatch, Pose

DEPTH_RANGE_MM = 120.0
IMAGENET_MEAN = torch.tensor([0.485, 0.456, 0.406])
IMAGENET_STD = torch.tensor([0.229, 0.224, 0.225])

Matrices = Float[Tensor, "b 3 3"]
Images = Float[Tensor, "b 3 px px"]


@dataclass(frozen=True)
class Augmentation:
    """Half-widths of uniform distributions; 0 disables each augmentation."""

    turn_deg: float = 30.0
    """Rotation in the picture's plane, in degrees."""
    shift: float = 0.08
    """Shift relative to the box's side."""
    zoom: float = 0.15
    """Zoom ratio: 0.15 is 1 / 1.15 to 1.15."""
    colour: float = 0.25
    """Variation of gain, contrast and channel mixing."""
    noise: float = 0.0
    erase: float = 0.2
    """Probability of hiding a random box."""

    def __post_init__(self) -> None:
        expect_between(self, 0, 180, "turn_deg")
        expect_between(self, 0, 1, "shift", "colour", "erase")
        expect_between(self, 0, 10, "zoom", "noise")


NONE = Augmentation(0, 0, 0, 0, 0, 0)


class Turns(NamedTuple):
    """Rotations and zooms of the virtual camera."""

    R: Matrices
    zoom: Float[Tensor, " b"]


@dataclass(frozen=True)
class Stored:
    """Packed pictures and labels of a batch.

    rgb: uint8. depth: uint16 mm. margin: side of a stored picture of `px` pixels in boxes.
    answers: a teacher's predictions for the unaugmented box.
    """

    joints_mm: Float[Tensor, "b 21 3"]
    K: Matrices
    px: int
    margin: float
    rgb: Shaped[Tensor, "b stored stored 3"] | None = None
    depth: Shaped[Tensor, "b stored stored"] | None = None
    answers: Pose | None = None


def _uniform(shape: tuple[int, ...], half: float, generator: torch.Generator) -> Tensor:
    return (2 * torch.rand(shape, generator=generator, device=generator.device) - 1) * half


def sample_turns(
    count: int,
    augmentation: Augmentation,
    focal: Float[Tensor, " b"],
    px: float,
    generator: torch.Generator,
) -> Turns:
    """Draws random turns of virtual cameras, for focal lengths and a box side `px` in pixels."""
    angle = _uniform((count,), torch.pi / 180 * augmentation.turn_deg, generator)
    tilt = _uniform((count, 2), augmentation.shift * px, generator) / focal[:, None]
    widest = torch.log1p(torch.tensor(augmentation.zoom)).item()
    zoom = torch.exp(_uniform((count,), widest, generator))
    o, one = torch.zeros_like(angle), torch.ones_like(angle)
    c, s = angle.cos(), angle.sin()
    roll = torch.stack([c, -s, o, s, c, o, o, o, one], 1).view(-1, 3, 3)
    a, b = tilt.sin().T
    c, d = tilt.cos().T
    yaw = torch.stack([c, o, a, o, one, o, -a, o, c], 1).view(-1, 3, 3)
    pitch = torch.stack([one, o, o, o, d, -b, o, b, d], 1).view(-1, 3, 3)
    return Turns(pitch @ yaw @ roll, zoom)


def roll_turns(count: int, angle_deg: float, device: torch.device | str = "cpu") -> Turns:
    """The same in-plane rotation for all cameras; angle 0 is exactly the identity."""
    a = torch.deg2rad(torch.tensor(float(angle_deg), device=device))
    o, one = torch.zeros_like(a), torch.ones_like(a)
    turn = torch.stack([a.cos(), -a.sin(), o, a.sin(), a.cos(), o, o, o, one]).view(1, 3, 3)
    return Turns(turn.expand(count, 3, 3), one.expand(count))


def upright_rolls(joints: Float[Tensor, "b 21 3"], K: Matrices) -> Float[Tensor, "b 3 3"]:
    """In-plane rotations that bring the middle MCP right above the wrist."""
    points = joints[:, [WRIST, MIDDLE_MCP]] @ K.transpose(1, 2)
    pixels = points[..., :2] / points[..., 2:].clamp_min(1e-6)
    along = pixels[:, 1] - pixels[:, 0]
    length = along.norm(dim=1, keepdim=True)
    up = along.new_tensor([[0.0, -1.0]])
    x, y = torch.where(length > 1e-6, along / length.clamp_min(1e-6), up).T
    o, one = torch.zeros_like(x), torch.ones_like(x)
    return torch.stack([-y, x, o, -x, -y, o, o, o, one], 1).view(-1, 3, 3)


def network_camera(
    K: Matrices, margin: float, stored_px: int, px: int, zoom: Float[Tensor, " b"]
) -> Matrices:
    """K of the network's zoomed px x px picture of the box.

    The stored picture covers `margin` boxes in stored_px pixels.
    """
    out = K.clone()
    out[:, 0, 0] = out[:, 1, 1] = K[:, 0, 0] * zoom * margin * px / stored_px
    out[:, 0, 2] = out[:, 1, 2] = px / 2 - 0.5
    return out


def pixel_rays(K: Matrices, px: int) -> Float[Tensor, "b n 3"]:
    """Ray directions with z = 1 of all px x px pixels, row by row."""
    steps = torch.arange(px, device=K.device)
    v, u = torch.meshgrid(steps, steps, indexing="ij")
    pixels = torch.stack([u, v, torch.ones_like(u)], -1).view(-1, 3).to(K)
    return pixels @ torch.linalg.inv(K).transpose(1, 2)


def sampling_grid(
    K_from: Matrices, R: Matrices, K_to: Matrices, stored_px: int, px: int
) -> Float[Tensor, "b px px 2"]:
    """The position of each output pixel in the stored picture, for grid_sample.

    R maps the old frame to the new one.
    """
    points = project_to_sides(pixel_rays(K_to, px) @ R, K_from, stored_px)
    return points.view(len(K_from), px, px, 2)


def network_inputs(
    stored: Stored,
    px: int,
    augmentation: Augmentation = NONE,
    generator: torch.Generator | None = None,
    turns: Turns | None = None,
    upright: bool = False,
) -> HandBatch:
    """Converts packed pictures and labels to network inputs of px x px pixels.

    Args:
        stored: the packed batch.
        px: side of the network's picture in pixels.
        augmentation: the random changes.
        generator: the random generator.
        turns: turns of the virtual camera; None draws them.
        upright: whether to rotate hands upright before the random turns.
    """
    K = stored.K
    generator = generator or torch.Generator(K.device).manual_seed(0)
    if turns is None:
        box_px = stored.px / stored.margin
        turns = sample_turns(len(K), augmentation, K[:, 0, 0], box_px, generator)
        if upright:
            turns = turns._replace(R=turns.R @ upright_rolls(stored.joints_mm, K))
    R, zoom = turns
    K_to = network_camera(K, stored.margin, stored.px, px, zoom)
    grid = sampling_grid(K, R, K_to, stored.px, px)
    turned = stored.joints_mm @ R.transpose(1, 2)
    scale = bone_scale(turned)
    rgb = depth = None
    if stored.rgb is not None:
        picture = stored.rgb.permute(0, 3, 1, 2).float() / 255
        image = F.grid_sample(picture, grid, padding_mode="border", align_corners=False)
        rgb = change_colours(image, augmentation, generator)
    if stored.depth is not None:
        old_rays = pixel_rays(K_to, px) @ R
        depth = relative_depth(stored.depth, grid, old_rays, turned[:, WRIST, 2])
    return HandBatch(
        joints=(turned - turned[:, WRIST : WRIST + 1]) / scale[:, None, None],
        uv=project_to_sides(turned, K_to, px),
        scale_mm=scale,
        rgb=rgb,
        depth=depth,
        answers=None if stored.answers is None else turn_answers(stored, stored.answers, turns, px),
    )


def turn_answers(stored: Stored, answers: Pose, turns: Turns, px: int) -> Pose:
    """Converts predictions for the unaugmented box to the turned picture.

    Joints rotate with the camera, and so do the rays of positions on the picture.
    """
    joints = answers.joints @ turns.R.transpose(1, 2)
    if answers.uv is None:
        return Pose(joints)
    still = network_camera(stored.K, stored.margin, stored.px, px, torch.ones_like(turns.zoom))
    pixels = ((answers.uv + 1) * px - 1) / 2
    points = torch.cat([pixels, torch.ones_like(pixels[..., :1])], 2)
    rays = points @ torch.linalg.inv(still).transpose(1, 2)
    K_to = network_camera(stored.K, stored.margin, stored.px, px, turns.zoom)
    return Pose(joints, project_to_sides(rays @ turns.R.transpose(1, 2), K_to, px))


def project_to_sides(
    points: Float[Tensor, "b n 3"], K: Matrices, px: int
) -> Float[Tensor, "b n 2"]:
    """Projects points by K to picture coordinates from -1 to 1."""
    h = points @ K.transpose(1, 2)
    return (2 * h[..., :2] / h[..., 2:].clamp_min(1e-6) + 1) / px - 1


def relative_depth(
    depth: Shaped[Tensor, "b stored stored"],
    grid: Float[Tensor, "b px px 2"],
    old_rays: Float[Tensor, "b n 3"],
    wrist_mm: Float[Tensor, " b"],
) -> Float[Tensor, "b 1 px px"]:
    """Depth along the new axis relative to the wrist, in units of 120 mm.

    A stored z lies on the old ray r (z = 1). The new ray has z = 1 in the new frame and r_z in the
    old one, so the depth along it is z / r_z.
    """
    z = F.grid_sample(depth[:, None].float(), grid, mode="nearest", align_corners=False)
    measured = z > 0
    along = z / old_rays[..., 2].view_as(z)
    value = (along - wrist_mm[:, None, None, None]) / DEPTH_RANGE_MM
    return torch.where(measured, value.clamp(-1, 1), 1.0)


def normalise(image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """Applies the ImageNet normalization to RGB in [0, 1]."""
    mean, std = (t.to(image).view(1, 3, 1, 1) for t in (IMAGENET_MEAN, IMAGENET_STD))
    return (image - mean) / std


def change_colours(image: Images, augmentation: Augmentation, generator: torch.Generator) -> Images:
    """Applies a random color response, noise and a hidden box, then normalizes."""
    count, device = len(image), image.device
    if augmentation.colour:
        c = augmentation.colour
        gain = 1 + _uniform((count, 1, 1), c, generator)
        gain = gain + _uniform((count, 3, 1), 0.4 * c, generator)
        mix = torch.eye(3, device=device) * gain + _uniform((count, 3, 3), 0.3 * c, generator)
        level = image.mean((1, 2, 3), keepdim=True)
        mixed = torch.einsum("bij,bjhw->bihw", mix, image - level)
        image = mixed + level + _uniform((count, 1, 1, 1), 0.6 * c, generator)
    if augmentation.noise:
        draw = torch.rand((count, 1, 1, 1), generator=generator, device=device)
        noise = torch.randn(image.shape, generator=generator, device=device)
        image = image + augmentation.noise * draw * noise
    if augmentation.erase:
        image = hide_boxes(image, augmentation.erase, generator)
    return normalise(image.clamp(0, 1))


def hide_boxes(image: Images, probability: float, generator: torch.Generator) -> Images:
    """Fills a random box of up to 40 % of the side with one color, in a share of pictures."""
    count, px = len(image), image.shape[-1]
    draw = torch.rand((count, 8), generator=generator, device=image.device)
    size, corner = 0.1 + 0.3 * draw[:, :2], draw[:, 2:4]
    at = torch.arange(px, device=image.device) / px
    low = corner * (1 - size)
    inside = (at[None, None] >= low[..., None]) & (at[None, None] < (low + size)[..., None])
    hidden = inside[:, 0, :, None] & inside[:, 1, None, :]
    hidden = hidden & (draw[:, 4] < probability)[:, None, None]
    return torch.where(hidden[:, None], draw[:, 5:8, None, None], image)
