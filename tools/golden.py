"""Runs the stages, an experiment of each kind and every study in their smallest form, and records a
hash of everything they compute.

A change that moves code must not move a number. Run it before and after, on the same machine:

    python tools/golden.py record before.json
    python tools/golden.py record after.json
    python tools/golden.py compare before.json after.json

A record maps `file: tensor` to a hash: every tensor of every safetensors file, every array of
every packed set and prediction file, and the numbers of every JSON result without times, commits
and machines. Rounding differs between processors, so a record means something only on the
machine that made it.
"""

import contextlib
import hashlib
import io
import json
import os
import runpy
import sys
import tempfile
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "2"  # sums depend on the number of threads
sys.path.insert(0, str(Path(__file__).parents[1]))  # for the studies, which are not installed

# Keys of JSON files that differ from run to run, or name where and when it ran.
VOLATILE = {
    "seconds",
    "sessions",
    "commits",
    "commit",
    "commands",
    "command",
    "machine",
    "machines",
    "hours",
    "images_per_s",
    "started",
    "environment",
    "versions",
    "settings",
    "crc32",
    "sets",
    "place",  # of the folder, which is another each time
    "outputs",
    "checksum",
    "stamp",  # times of files
    "labels_crc32",  # MATLAB files hold the time at which they were written
}
SKIPPED = {"environment.json", "config.json", "rows.json", "study_rows.json", "paper_rows.json"}

NET = "--backbone resnet10 --width 0.125 --px 32"
FEW = "--batch 8 --precision 32-true"
ONE_EPOCH = f"--epochs 1 {FEW}"
EXACT = "--precision 32-true"
DEMO = (
    f"{NET} {FEW} --source-count 48 --labels 16 --target-frames 12 --source-epochs 1 "
    "--target-epochs 1 --stops 0 1 --with-prior --wide-count 16 --wide-epochs 1 --long-epochs 1 "
    "--tries 0.1 10 --seeds 0 1"
)
SOURCE = f"--data demo/data/source --test demo/data/source-test {ONE_EPOCH}"
DISTILL = f"{SOURCE} --student pooled/student --teacher pooled/teacher"
TARGET = (
    "--data demo/data/target --test demo/data/target-test --source demo/data/source "
    f"--student demo/student {ONE_EPOCH}"
)
PHI = "demo/depth/prior_p2.safetensors"
DISTILLED = "demo/depth/distilled.safetensors"
ROWS = {
    "permuted": f"--prior {PHI} --sigma 0.1 --permuted",
    "layer-mean": f"--prior {PHI} --sigma 0.1 --layer-mean --no-coupled",
    "fresh": "--fresh 77 --sigma 0.1 --exponent 1",
    "set-scale": f"--start {DISTILLED} --scale set --alongside demo/data/source",
    "centred": f"--start {DISTILLED} --centre {DISTILLED} --prior {PHI}",
    "frames": "--frames 0 36 --validation 36 48 --test-time-rotations-deg -30 30 --schedule cosine",
}
COMMANDS = [
    f"cmkg run demo --out demo {DEMO}",
    f"cmkg teacher --out pooled/teacher {SOURCE} {NET} --extra demo/data/wide-depth",
    f"cmkg student --out pooled/student {SOURCE} {NET}",
    f"cmkg distill --out pooled/distill {DISTILL}",
    f"cmkg distill --out pooled/l3 {DISTILL} --inner-steps 3 --exponents 2",
    f"cmkg distill --out pooled/split {DISTILL} --split --select all --schedule cosine",
    f"cmkg distill --out pooled/adam {DISTILL} --inner-optimizer adam --alpha 1e-3 "
    "--start theta_0 --no-use-teacher",
    f"cmkg distill --out pooled/alone {DISTILL} --exponents",
    f"cmkg distill --out pooled/outputs {DISTILL} --exponents --criterion outputs --labels 16 "
    "--unlabelled 0.75 --fading",
    f"cmkg distill --out pooled/features {DISTILL} --exponents --criterion both --shuffled",
    *(f"cmkg target --out rows/{name} {TARGET} {flags}" for name, flags in ROWS.items()),
    "cmkg lookalikes --data demo/data/target --out lookalikes --count 8",
    "cmkg evaluate --weights rows/centred/target.safetensors --data demo/data/target-test "
    "--out evaluated --student demo/student --export predictions.json --root palm "
    f"--align procrustes {EXACT}",
    "cmkg evaluate --predictions predictions.json --data demo/data/target-test --out theirs "
    "--scale given",
    "cmkg export-student --stage rows/centred --student demo/student --out exported",
    f"cmkg prior merge --files {PHI} pooled/distill/prior_p2.safetensors --out never.safetensors",
    f"cmkg prior merge --files {PHI} twin.safetensors --out merged.safetensors --how sign",
    "cmkg preflight --source demo/data/source --source-test demo/data/source-test "
    "--target demo/data/target --target-test demo/data/target-test --out preflight --epochs 1 "
    f"{NET} --batch 8 --sigmas 1",
    "cmkg data make --dataset rhd --root made/rhd --count 8",
    "cmkg data make --dataset stb --root made/stb --count 8",
    "cmkg data make --dataset freihand --root made/freihand --count 8",
    "cmkg data pack --dataset rhd --root made/rhd --out packed/rhd --px 40",
    "cmkg data pack --dataset stb --root made/stb --out packed/stb --px 40 --camera SK_color "
    "--wrist middle",
    "cmkg data pack --dataset freihand --root made/freihand --out packed/freihand --px 40 "
    "--domain auto",
    f"cmkg run table2 --quick --out paper --rows stb/l1-1e-4 stb/prior-l2 {EXACT}",
    f"python -m studies.worth --out worth {NET} {EXACT} --count 32 --labels 16 --epochs 1 "
    "--batch 8 --target-frames 8 --target-epochs 1 --tries 1 --seeds 0 --again 1",
    f"python -m studies.labels --out labels {NET} {EXACT} --count 32 --labels 8 --epochs 1 "
    "--batch 8 --seeds 0",
]
EXPECTED_TO_FAIL = ("never.safetensors",)  # priors of different networks: refused


def execute(command: str) -> int:
    """Runs a command line in this process; returns its exit code."""
    program, *arguments = command.split()
    said = io.StringIO()
    sys.argv = [program, *arguments]
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            if program == "cmkg":
                from cmkg.cli.main import main

                main()
            else:  # python -m studies.worth
                sys.argv = arguments[1:]
                runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
            code = 0
        except SystemExit as end:
            code = end.code or 0
    refused = any(name in command for name in EXPECTED_TO_FAIL)
    if bool(code) != refused:
        raise SystemExit(f"{command}: exit code {code}\n{said.getvalue()}")
    return code


def fingerprint(value: bytes) -> str:
    return hashlib.sha256(value).hexdigest()[:16]


def without_volatile(value: object) -> object:
    if isinstance(value, dict):
        return {k: without_volatile(v) for k, v in value.items() if k not in VOLATILE}
    if isinstance(value, list):
        return [without_volatile(v) for v in value]
    return value


def hashes_of(path: Path) -> dict[str, str]:
    """{part of the file: hash} of one file; empty for files that hold no result."""
    import numpy as np
    from safetensors.numpy import load_file

    if path.suffix == ".safetensors":
        return {
            n: fingerprint(repr(a.shape).encode() + a.tobytes()) for n, a in load_file(path).items()
        }
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            return {n: fingerprint(repr(a.shape).encode() + a.tobytes()) for n, a in arrays.items()}
    if path.suffix == ".npy":
        array = np.load(path)
        return {"array": fingerprint(repr(array.shape).encode() + array.tobytes())}
    if path.suffix == ".json" and path.name not in SKIPPED:
        return {
            "json": fingerprint(
                json.dumps(without_volatile(json.loads(path.read_text())), sort_keys=True).encode()
            )
        }
    return {}


def record(out: Path) -> None:
    """Runs all commands in an empty folder and writes their hashes to `out`."""
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for number, command in enumerate(COMMANDS, 1):
            began = time.monotonic()
            prepare(command)
            execute(command)
            print(
                f"{number}/{len(COMMANDS)} {time.monotonic() - began:5.1f} s  {command[:90]}",
                flush=True,
            )
        held = {}
        for path in sorted(Path().rglob("*")):
            if path.is_file():
                held |= {f"{path}: {part}": value for part, value in hashes_of(path).items()}
    out.write_text(json.dumps(held, indent=0, sort_keys=True) + "\n")
    print(f"{out}: {len(held)} hashes")


def prepare(command: str) -> None:
    """Makes what a command needs beside what earlier ones wrote."""
    import shutil

    if "wide-depth" in command:
        shutil.copytree("demo/data/wide", "demo/data/wide-depth")
    if "twin.safetensors" in command:
        shutil.copy("demo/depth/prior_p2.safetensors", "twin.safetensors")


def compare(before: Path, after: Path) -> int:
    """Prints what differs; returns how many hashes do."""
    a, b = json.loads(before.read_text()), json.loads(after.read_text())
    changed = sorted(k for k in a.keys() & b.keys() if a[k] != b[k])
    for title, names in (
        ("changed", changed),
        ("gone", sorted(a.keys() - b.keys())),
        ("new", sorted(b.keys() - a.keys())),
    ):
        files = sorted({n.split(": ")[0] for n in names})
        print(f"{title}: {len(names)} hashes in {len(files)} files")
        for file in files[:60]:
            print(f"  {file}")
    return len(changed) + len(a.keys() ^ b.keys())


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] == "record":
        record(Path(sys.argv[2]).resolve())
    elif len(sys.argv) == 4 and sys.argv[1] == "compare":
        sys.exit(1 if compare(Path(sys.argv[2]), Path(sys.argv[3])) else 0)
    else:
        sys.exit(__doc__)
