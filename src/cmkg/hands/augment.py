"""From packed pictures to network inputs, on the batch's device: one homography a sample, shared by
RGB, depth and joints.

Turning the virtual camera (in-plane rotation, shift as a small tilt) and zooming it are exact
for the picture, so the 3D joints turn with it and depth is measured along the new axis.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .skeleton import WRIST, bone_scale

DEPTH_RANGE_MM = 120.0
GREY = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


@dataclass(frozen=True)
class Augmentation:
    """Half-widths of uniform draws; 0 turns each off."""

    turn_deg: float = 30.0
    shift: float = 0.08  # of the box's side
    zoom: float = 0.15  # as a ratio: 1 / 1.15 .. 1.15
    colour: float = 0.25  # of gain, contrast and channel mixing
    noise: float = 0.0
    erase: float = 0.2  # probability that a random box is hidden


NONE = Augmentation(0, 0, 0, 0, 0, 0)


def _uniform(shape, half, generator):
    return (2 * torch.rand(shape, generator=generator, device=generator.device) - 1) * half


def camera_turns(count, augmentation, focal, px, generator):
    """Random rotations (B, 3, 3) of the virtual camera and zooms (B,)."""
    angle = _uniform((count,), torch.pi / 180 * augmentation.turn_deg, generator)
    tilt = _uniform((count, 2), augmentation.shift * px, generator) / focal[:, None]
    zoom = torch.exp(
        _uniform((count,), torch.log1p(torch.tensor(augmentation.zoom)).item(), generator)
    )
    o, one = torch.zeros_like(angle), torch.ones_like(angle)
    roll = torch.stack(
        [angle.cos(), -angle.sin(), o, angle.sin(), angle.cos(), o, o, o, one], 1
    ).view(-1, 3, 3)
    a, b = tilt.sin().T
    c, d = tilt.cos().T
    yaw = torch.stack([c, o, a, o, one, o, -a, o, c], 1).view(-1, 3, 3)
    pitch = torch.stack([one, o, o, o, d, -b, o, b, d], 1).view(-1, 3, 3)
    return pitch @ yaw @ roll, zoom


def roll(count, angle_deg, device="cpu"):
    """The camera turned in its picture's plane: what camera_turns gives, the same for all. At 0
    exactly the identity."""
    a = torch.deg2rad(torch.tensor(float(angle_deg), device=device))
    o, one = torch.zeros_like(a), torch.ones_like(a)
    turn = torch.stack([a.cos(), -a.sin(), o, a.sin(), a.cos(), o, o, o, one]).view(1, 3, 3)
    return turn.expand(count, 3, 3), one.expand(count)


def network_camera(K, margin, stored_px, px, zoom):
    """K (B, 3, 3) of the network's px x px picture of the box, zoomed; the stored picture shows
    `margin` boxes."""
    out = K.clone()
    out[:, 0, 0] = out[:, 1, 1] = K[:, 0, 0] * zoom * margin * px / stored_px
    out[:, 0, 2] = out[:, 1, 2] = px / 2 - 0.5
    return out


def rays(K, px):
    """Directions (B, px * px, 3) with z = 1 of all pixels."""
    v, u = torch.meshgrid(
        torch.arange(px, device=K.device), torch.arange(px, device=K.device), indexing="ij"
    )
    pixels = torch.stack([u, v, torch.ones_like(u)], -1).view(-1, 3).to(K)
    return pixels @ torch.linalg.inv(K).transpose(1, 2)


def sampling_grid(K_from, R, K_to, stored_px, px):
    """Where each output pixel looks in the stored picture: (B, px, px, 2) for grid_sample; R
    takes old to new frame."""
    return picture_points(rays(K_to, px) @ R, K_from, stored_px).view(len(K_from), px, px, 2)


def network_inputs(
    rgb, depth, joints_mm, K, meta, px, augmentation=NONE, generator=None, turns=None
):
    """Packed pictures and labels -> what is asked for; rgb or depth may be None. meta: the packed
    set's. turns: rotations and zooms of the virtual camera; None draws them. {"rgb" (B, 3, px,
    px), "depth" (B, 1, px, px), "joints" (B, 21, 3), "uv" (B, 21, 2), "scale_mm" (B,)}.

    joints are wrist-relative in units of the bone |middle MCP - middle PIP|, whose length is
    scale_mm; uv is where they are on the picture, whose sides are -1 and 1. Depth is relative to
    the wrist, in units of 120 mm, clipped to [-1, 1]; 1 where nothing was measured.
    """
    generator = generator or torch.Generator(K.device).manual_seed(0)
    stored_px, margin = meta["arrays"]["rgb"][0][1], meta["margin"]
    R, zoom = turns or camera_turns(len(K), augmentation, K[:, 0, 0], stored_px / margin, generator)
    K_to = network_camera(K, margin, stored_px, px, zoom)
    grid = sampling_grid(K, R, K_to, stored_px, px)
    turned = joints_mm @ R.transpose(1, 2)
    scale = bone_scale(turned)
    inputs = {
        "joints": (turned - turned[:, WRIST : WRIST + 1]) / scale[:, None, None],
        "scale_mm": scale,
        "uv": picture_points(turned, K_to, px),
    }
    if rgb is not None:
        image = F.grid_sample(
            rgb.permute(0, 3, 1, 2).float() / 255, grid, padding_mode="border", align_corners=False
        )
        inputs["rgb"] = photometric(image, augmentation, generator)
    if depth is not None:
        inputs["depth"] = relative_depth(depth, grid, rays(K_to, px) @ R, turned[:, WRIST, 2])
    return inputs


def picture_points(points, K, px):
    """Projections (B, N, 2) of points (B, N, 3) by K (B, 3, 3), the picture's sides being -1 and
    1."""
    h = points @ K.transpose(1, 2)
    return (2 * h[..., :2] / h[..., 2:].clamp_min(1e-6) + 1) / px - 1


def relative_depth(depth, grid, old_rays, wrist_mm):
    """Depth along the new axis: a stored z on the old ray r (z = 1) lies at distance z * |K_to
    ray| / ... = z / r_z."""
    z = F.grid_sample(depth[:, None].float(), grid, mode="nearest", align_corners=False)
    measured = z > 0
    # the new ray has z = 1 in the new frame and r_z in the old
    along = z / old_rays[..., 2].view_as(z)
    value = (along - wrist_mm[:, None, None, None]) / DEPTH_RANGE_MM
    return torch.where(measured, value.clamp(-1, 1), 1.0)


def photometric(image, augmentation, generator):
    """Random colour response, noise and a hidden box; then the backbones' usual normalisation.
    (B, 3, px, px) -> same."""
    B, _, px, _ = image.shape
    mean, std = (t.to(image).view(1, 3, 1, 1) for t in GREY)
    if augmentation.colour:
        c = augmentation.colour
        gain = 1 + _uniform((B, 1, 1), c, generator) + _uniform((B, 3, 1), 0.4 * c, generator)
        mix = torch.eye(3, device=image.device) * gain + _uniform((B, 3, 3), 0.3 * c, generator)
        level = image.mean((1, 2, 3), keepdim=True)
        image = (
            torch.einsum("bij,bjhw->bihw", mix, image - level)
            + level
            + _uniform((B, 1, 1, 1), 0.6 * c, generator)
        )
    if augmentation.noise:
        strength = augmentation.noise * torch.rand(
            (B, 1, 1, 1), generator=generator, device=image.device
        )
        image = image + strength * torch.randn(
            image.shape, generator=generator, device=image.device
        )
    if augmentation.erase:
        image = erase(image, augmentation.erase, generator)
    return (image.clamp(0, 1) - mean) / std


def erase(image, probability, generator):
    """Hides a random box of up to 40 % of the side behind one colour, in a share `probability`
    of the pictures."""
    B, _, px, _ = image.shape
    draw = torch.rand((B, 8), generator=generator, device=image.device)
    size, corner = 0.1 + 0.3 * draw[:, :2], draw[:, 2:4]
    at = torch.arange(px, device=image.device) / px
    low = corner * (1 - size)
    # (B, 2, px)
    inside = (at[None, None] >= low[..., None]) & (at[None, None] < (low + size)[..., None])
    hidden = (
        inside[:, 0, :, None] & inside[:, 1, None, :] & (draw[:, 4] < probability)[:, None, None]
    )
    return torch.where(hidden[:, None], draw[:, 5:8, None, None], image)
