"""How many pictures a second does the renderer draw, everything included (pose, light, background,
camera, packing)?

Bars on two quiet cores: 300 a second at 64 px, 100 at 128 px. The start of the worker processes is
timed apart.

    python benchmarks/renderer.py [--count 1536] [--workers 2]
"""

import argparse
import shutil
import tempfile
import time
from pathlib import Path

from cmkg.hands.datasets.packed.pack import pack
from cmkg.hands.rendering.scenes import SceneConfig
from cmkg.hands.synthesis.rendered import Rendered


def seconds(px, count, workers):
    folder = Path(tempfile.mkdtemp())
    began = time.perf_counter()
    pack(Rendered(SceneConfig(px=px), count), folder / "set", workers)
    shutil.rmtree(folder)
    return time.perf_counter() - began


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=1536)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    seconds(64, 128, options.workers)  # compiles the kernels, warms the file cache
    for px, bar in ((64, 300), (128, 100)):
        short, long = (seconds(px, n, options.workers) for n in (128, 128 + options.count))
        print(
            f"{px:4} px: {options.count / (long - short):6.0f} pictures/s (bar {bar}); "
            f"processes start in {short:.1f} s"
        )


if __name__ == "__main__":
    main()
