import cv2
import numpy as np
import torch

from cmkg.hands import geometry
from cmkg.hands.network import augment


def points(n=21, seed=0):
    return np.random.default_rng(seed).uniform([-100, -100, 400], [100, 100, 700], (n, 3))


def blob_picture(uv, px):
    image = np.zeros((px, px, 3), np.uint8)
    cv2.circle(
        image, tuple(int(round(v * 16)) for v in uv), 32, (255, 255, 255), -1, cv2.LINE_AA, shift=4
    )
    return image


def test_augmentation_turns_pixels_joints_and_depth_together():
    """A bright dot at a joint stays at that joint; a plane's depth stays the plane's."""
    rng, px, margin = np.random.default_rng(1), 160, 1.25
    focal = 300.0
    Ks = np.array([[focal, 0, px / 2 - 0.5], [0, focal, px / 2 - 0.5], [0, 0, 1]])
    joints = rng.uniform([-60, -60, 480], [60, 60, 520], (12, 21, 3))
    joints[:, 9] = [0, 0, 500]
    rgb = np.stack([blob_picture(geometry.project(j[4], Ks), px) for j in joints])
    normal, distance = np.array([0.2, -0.1, 1.0]), 500.0
    u, v = np.meshgrid(np.arange(px), np.arange(px))
    ray = np.stack([(u - Ks[0, 2]) / focal, (v - Ks[1, 2]) / focal, np.ones_like(u)], -1)
    depth = np.repeat(np.rint(distance / (ray @ normal))[None], 12, 0).astype(np.uint16)
    settings = augment.Augmentation(turn_deg=60, shift=0.1, zoom=0.2, colour=0, noise=0, erase=0)
    tensors = [
        torch.from_numpy(a)
        for a in (
            rgb,
            depth,
            joints.astype(np.float32),
            np.repeat(Ks[None], 12, 0).astype(np.float32),
        )
    ]
    rgb_t, depth_t, joints_t, K_t = tensors
    stored = augment.Stored(joints_t, K_t, px, margin, rgb_t, depth_t)

    def key():
        return torch.Generator().manual_seed(3)

    out = augment.network_inputs(stored, 128, settings, key())
    R, zoom = augment.sample_turns(12, settings, K_t[:, 0, 0], px / margin, key())
    Kn = augment.network_camera(K_t, margin, px, 128, zoom)
    turned = joints_t @ R.transpose(1, 2)
    for i in range(12):
        uv = geometry.project(turned[i, 4].numpy(), Kn[i].numpy())
        if not (uv > 8).all() or not (uv < 120).all():
            continue
        bright = out.rgb[i].sum(0).numpy()
        bright = bright - bright.min()
        seen = np.array(
            [(bright * g).sum() / bright.sum() for g in np.meshgrid(np.arange(128), np.arange(128))]
        )
        np.testing.assert_allclose(seen, uv, atol=0.6)
        new_normal = R[i].numpy() @ normal
        rays = augment.pixel_rays(Kn[i : i + 1], 128)[0].numpy().reshape(128, 128, 3)
        expected = (
            distance / (rays @ new_normal) - turned[i, 0, 2].item()
        ) / augment.DEPTH_RANGE_MM
        inside = np.abs(expected) < 0.9
        inside &= out.depth[i, 0].numpy() < 0.999
        assert (
            np.abs(out.depth[i, 0].numpy() - expected)[inside].max() * augment.DEPTH_RANGE_MM < 2.5
        )  # a nearest pixel and a rounded mm
    bone = (turned[:, 9] - turned[:, 10]).norm(dim=1)
    torch.testing.assert_close(out.joints, (turned - turned[:, :1]) / bone[:, None, None])


def test_without_augmentation_the_labels_are_untouched():
    joints = torch.from_numpy(points().astype(np.float32))[None]
    Ks = torch.tensor([[[300.0, 0, 39.5], [0, 300, 39.5], [0, 0, 1]]])
    rgb = torch.zeros(1, 80, 80, 3, dtype=torch.uint8)
    out = augment.network_inputs(augment.Stored(joints, Ks, 80, 1.25, rgb), 64)
    torch.testing.assert_close(out.joints * out.scale_mm.view(1, 1, 1), joints - joints[:, :1])
    assert out.depth is None


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def test_hands_are_turned_upright_whatever_their_roll_and_keep_their_shape():
    joints = torch.randn(6, 21, 3, generator=seeded(0)) * 40 + torch.tensor([0.0, 0, 500])
    K = torch.tensor([[300.0, 0, 39.5], [0, 300, 39.5], [0, 0, 1]]).expand(6, 3, 3)
    stored = augment.Stored(joints, K, 80, 1.25)
    out = augment.network_inputs(stored, 64, augment.NONE, seeded(0), upright=True)
    along = out.uv[:, 9] - out.uv[:, 0]
    assert along[:, 0].abs().max() < 1e-4
    assert (along[:, 1] < 0).all()
    as_it_is = augment.network_inputs(stored, 64, augment.NONE, seeded(0))
    torch.testing.assert_close(
        torch.cdist(out.joints, out.joints), torch.cdist(as_it_is.joints, as_it_is.joints)
    )
    rolled = augment.roll_turns(6, 70.0).R @ joints.transpose(1, 2)
    again = augment.Stored(rolled.transpose(1, 2), K, 80, 1.25)
    other = augment.network_inputs(again, 64, augment.NONE, seeded(0), upright=True)
    torch.testing.assert_close(other.joints, out.joints, atol=1e-4, rtol=1e-4)
