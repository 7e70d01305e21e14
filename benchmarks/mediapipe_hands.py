"""MediaPipe Hands on a folder of pictures, for benchmarks/photographs.py: joints and times.

Runs in an environment of its own (mediapipe 0.10.21 needs numpy 1):
    python benchmarks/mediapipe_hands.py FOLDER out.npz [PICTURE WITHOUT A HAND …]
"""

import os
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
import cv2
import mediapipe
import numpy as np

REPEAT = 20


def main(folder, out, *without):
    """Writes image (N,), joints_m (N, 21, 3) with nan where there is no hand, seconds a call."""
    paths = sorted(Path(folder).glob("*.jpg"))
    pictures = [cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB) for path in paths]
    hands = mediapipe.solutions.hands
    joints = np.full((len(paths), 21, 3), np.nan)
    pixels = np.full((len(paths), 21, 2), np.nan)
    sides = []
    with hands.Hands(static_image_mode=True, max_num_hands=1) as detect:
        for number, picture in enumerate(pictures):
            found = detect.process(picture)
            sides.append("")
            if not found.multi_hand_world_landmarks:
                continue
            world = found.multi_hand_world_landmarks[0].landmark
            joints[number] = [(p.x, p.y, p.z) for p in world]
            height, width = picture.shape[:2]
            places = found.multi_hand_landmarks[0].landmark
            pixels[number] = [(p.x * width, p.y * height) for p in places]
            sides[-1] = found.multi_handedness[0].classification[0].label
        detecting = seconds_of(detect, pictures)
        false = sum(
            bool(detect.process(cv2.imread(path)[..., ::-1].copy()).multi_hand_landmarks)
            for path in without
        )
    with hands.Hands(static_image_mode=False, max_num_hands=1) as follow:
        tracking = seconds_of(follow, pictures)
    np.savez(
        out,
        image=[path.name for path in paths],
        joints_m=joints,
        joints_px=pixels,
        side=sides,
        detecting_s=detecting,
        tracking_s=tracking,
        false=false,
        version=mediapipe.__version__,
    )


def seconds_of(hands, pictures):
    """Of each of REPEAT calls on pictures that follow each other."""
    hands.process(pictures[0])
    seconds = []
    for picture in pictures[:REPEAT]:
        began = time.perf_counter()
        hands.process(picture)
        seconds.append(time.perf_counter() - began)
    return seconds


if __name__ == "__main__":
    main(*sys.argv[1:])
