import numpy as np

from cmkg.hands.rendering.whole_pictures import Hands, whole_picture

PX = 60


def dots():
    """A white dot where the middle MCP is, a grey one where the wrist is, on black."""
    joints = np.zeros((3, 21, 3), np.float32) + [0, 0, 400.0]
    joints[:, 9, :2] = [[20, 0], [-10, 30], [0, -20]]
    joints[:, 0, :2] = joints[:, 9, :2] + [[0, 40], [40, 0], [-30, 30]]
    joints[:, 1:9] = joints[:, 10:] = joints[:, 9:10]
    K = np.tile(np.array([[200.0, 0, 29.5], [0, 200, 29.5], [0, 0, 1]]), (3, 1, 1))
    pictures = np.zeros((3, PX, PX, 3), np.uint8)
    for picture, hand in zip(pictures, joints, strict=True):
        for joint, level in ((0, 90), (9, 255)):
            x, y = np.rint(200 * hand[joint, :2] / 400 + 29.5).astype(int)
            picture[y - 2 : y + 3, x - 2 : x + 3] = level
    return Hands.of(pictures, joints, K)


def test_boxes_lie_where_the_hands_do_in_any_layout_and_mirrored():
    hands, empty = dots(), np.zeros((2, PX, PX, 3), np.uint8)
    count = 0
    for number in range(60):
        picture, boxes = whole_picture(np.random.default_rng(number), [hands], empty, 128)
        for x, y, side, right, down in boxes:
            u, v = round(x), round(y)
            near = picture[max(v - 2, 0) : v + 3, max(u - 2, 0) : u + 3, 0]
            assert near.max() > 180  # the middle MCP is there
            # and the wrist half a box's side behind it, unless it is cut off
            back = np.rint([x - right * side / 2, y - down * side / 2]).astype(int)
            if (back > 4).all() and (back < 123).all() and len(boxes) == 1:
                patch = picture[back[1] - 4 : back[1] + 5, back[0] - 4 : back[0] + 5, 0]
                count += 60 < np.percentile(patch, 95) < 200
    assert count > 8
