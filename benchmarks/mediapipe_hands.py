"""MediaPipe Hands on pictures, for benchmarks/photographs.py: what it finds, and times.

Runs in an environment of its own, since mediapipe 0.10.21 needs numpy 1:
    python benchmarks/mediapipe_hands.py pictures.json out.json COMPLEXITY

pictures.json: {"pictures": [path], "timed": [path]}; COMPLEXITY: 0 is its lite network, 1 its full.
"""

import json
import os
import sys
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")
import cv2
import mediapipe

HANDS = 4


def read(path):
    return cv2.cvtColor(cv2.imread(path), cv2.COLOR_BGR2RGB)


def main(pictures, out, complexity):
    with open(pictures) as file:
        given = json.load(file)
    solution = mediapipe.solutions.hands.Hands
    settings = {"max_num_hands": HANDS, "model_complexity": int(complexity)}
    found = {}
    with solution(static_image_mode=True, **settings) as detect:
        for path in given["pictures"]:
            picture = read(path)
            found[path] = hands_of(detect.process(picture), picture.shape)
        timed = [read(path) for path in given["timed"]]
        detecting = seconds_of(detect, timed)
    with solution(static_image_mode=False, **(settings | {"max_num_hands": 1})) as follow:
        following = seconds_of(follow, timed)
    with open(out, "w") as file:
        json.dump(
            {
                "hands": found,
                "detecting_s": detecting,
                "following_s": following,
                "version": mediapipe.__version__,
            },
            file,
        )


def hands_of(answer, shape):
    """Joints in our pixels and in mm; sides as they are, not as in a mirror."""
    height, width = shape[:2]
    hands = []
    for number in range(len(answer.multi_hand_landmarks or [])):
        places = answer.multi_hand_landmarks[number].landmark
        world = answer.multi_hand_world_landmarks[number].landmark
        side = answer.multi_handedness[number].classification[0]
        hands.append(
            {
                "px": [(p.x * width - 0.5, p.y * height - 0.5) for p in places],
                "mm": [(1000 * p.x, 1000 * p.y, 1000 * p.z) for p in world],
                "side": {"Left": "right", "Right": "left"}[side.label],
            }
        )
    return hands


def seconds_of(hands, pictures):
    """Of each call on pictures that follow each other, after a first one."""
    hands.process(pictures[0])
    seconds = []
    for picture in pictures:
        began = time.perf_counter()
        hands.process(picture)
        seconds.append(time.perf_counter() - began)
    return seconds


if __name__ == "__main__":
    main(*sys.argv[1:])
