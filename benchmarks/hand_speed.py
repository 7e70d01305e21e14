"""One look of the student that comes with cmkg, by onnxruntime against torch, on one thread.

    python benchmarks/hand_speed.py

Milliseconds, and their ratio, in one run; of one view, and of the three that a result averages.
"""

import os
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")
import numpy as np
import torch

from cmkg.hands.inference.hand import OWN
from cmkg.hands.inference.running import Networks
from cmkg.hands.network.hand_student import load_student

REPEAT = 100


def milliseconds_of(call, pictures):
    for _ in range(10):
        call(pictures)
    times = []
    for _ in range(REPEAT):
        began = time.perf_counter()
        call(pictures)
        times.append(time.perf_counter() - began)
    return 1000 * float(np.median(times))


def main():
    torch.set_num_threads(1)
    student = load_student(OWN)
    by_onnx, by_torch = Networks.of_folder(OWN, student), Networks(student)
    for views in (1, 3):
        shape = (views, student.px, student.px, 3)
        pictures = np.random.default_rng(0).integers(0, 255, shape, np.uint8)
        ours, theirs = (milliseconds_of(one.see, pictures) for one in (by_onnx, by_torch))
        print(
            f"{views} view{'s' * (views > 1)}: onnxruntime {ours:.2f} ms, torch {theirs:.2f} ms, "
            f"{theirs / ours:.1f} times"
        )


if __name__ == "__main__":
    main()
