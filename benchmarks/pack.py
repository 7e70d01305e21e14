"""How many RHD pictures a second does `cmkg data pack` write at 128 px, and what bounds it?

Bar on two quiet cores: 300 a second. On made data in RHD's layout (three PNGs a sample: colour,
depth, mask). Beside the whole: the share of a sample's time that decoding, checking and cropping
take in one process.

    python benchmarks/pack.py [--count 600] [--px 128] [--workers 2]
"""

import argparse
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from cmkg.hands import geometry
from cmkg.hands.datasets.packed.pack import pack
from cmkg.hands.datasets.rhd import Rhd
from cmkg.hands.datasets.sample import crop_frame
from cmkg.hands.files import reading
from cmkg.hands.synthesis import synthetic


class Repeated:
    """The same pictures over and over, so that the start of the processes counts little."""

    def __init__(self, dataset, count):
        self.dataset, self.count = dataset, count

    def __len__(self):
        return self.count

    def samples(self, indices):
        return self.dataset.samples([i % len(self.dataset) for i in indices])

    def describe(self):
        return self.dataset.describe() | {"count": self.count}


def packed_in(dataset, count, folder, workers):
    began = time.perf_counter()
    pack(Repeated(dataset, count), folder, workers)
    return time.perf_counter() - began


def shares(dataset, rounds=40):
    """{part: ms a sample} in one process."""
    paths = [
        dataset.path(kind, i % len(dataset))
        for i in range(rounds)
        for kind in ("color", "depth", "mask")
    ]
    data = [p.read_bytes() for p in paths]
    parts = {
        "reading": lambda: [p.read_bytes() for p in paths],
        "checksums": lambda: [reading._broken(d) for d in data],
        "decoding": lambda: [
            cv2.imdecode(np.frombuffer(d, np.uint8), cv2.IMREAD_UNCHANGED) for d in data
        ],
    }
    frames = [dataset.frame(i % len(dataset)) for i in range(rounds)]
    parts["cropping"] = lambda: [
        crop_frame(f, dataset.px, dataset.margin, geometry.reference_side) for f in frames
    ]
    parts["all"] = lambda: dataset.samples([i % len(dataset) for i in range(rounds)])
    found = {}
    for name, run in parts.items():
        began = time.perf_counter()
        run()
        found[name] = 1000 * (time.perf_counter() - began) / rounds
    return found


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--px", type=int, default=128)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as home:
        synthetic.make_dataset("rhd", Path(home) / "rhd", 64)
        dataset = Rhd(str(Path(home) / "rhd"), px=options.px)
        short, long = (
            packed_in(dataset, n, Path(home) / f"set-{n}", options.workers)
            for n in (128, 128 + options.count)
        )
        print(
            f"{options.px} px: {options.count / (long - short):.0f} pictures/s from "
            f"{options.workers} processes (bar 300); they start in {short:.1f} s"
        )
        for name, ms in shares(dataset).items():
            print(f"{name:10} {ms:6.2f} ms a sample in one process")


if __name__ == "__main__":
    main()
