"""What it costs a stage to check a packed set: once, and when it is remembered.

Ratios against reading the same files once, and reading batches against a memory map.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap

from cmkg.hands.files import arrays as array_files
from cmkg.hands.files.arrays import DiskArray, checksum, expect_checksum


def timed(function):
    """Its seconds; what it returns is dropped."""
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def main():
    """Writes a set's pictures, and prints the ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in (("count", 24_000), ("px", 80), ("batch", 64), ("rounds", 200)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    shape = (options.count, options.px, options.px, 3)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as home:
        path = Path(home) / "rgb.npy"
        array = open_memmap(path, "w+", "uint8", shape)
        for first in range(0, options.count, 1000):
            rows = array[first : first + 1000]
            rows[:] = rng.integers(0, 255, rows.shape, np.uint8)
        array.flush()
        reading = timed(path.read_bytes)
        checking = timed(lambda: checksum(path))
        expected = checksum(path)
        remembered = timed(lambda: expect_checksum(path, expected))
        array_files._known.clear()
        in_another_process = timed(lambda: expect_checksum(path, expected))
        mapped, read = np.load(path, mmap_mode="r"), DiskArray(path, shape, "uint8")
        spent = {"memory map": 0.0, "checked reading": 0.0}
        for _ in range(options.rounds):
            rows = rng.integers(0, options.count, options.batch)
            spent["memory map"] += timed(lambda rows=rows: np.asarray(mapped[rows]))
            spent["checked reading"] += timed(lambda rows=rows: read[rows])
    size = np.prod(shape) / 1e9
    print(f"{options.count:,} hands of {options.px} px, {size:.2f} GB")
    print(f"checking once: {checking / reading:.2f} x reading it once ({checking:.2f} s)")
    print(
        f"remembered: {remembered / reading:.5f} x, in another process {in_another_process:.4f} s"
    )
    ratio = spent["checked reading"] / spent["memory map"]
    print(f"a batch of {options.batch}: {ratio:.2f} x a memory map's time")


if __name__ == "__main__":
    main()
