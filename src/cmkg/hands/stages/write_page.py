"""`cmkg page`: a folder that any static server can serve, and that finds hands without us."""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ...errors import InputError
from ...runtime.files import write_atomically, write_json
from ..inference.exchange import UNITS
from ..inference.hand import OWN as STUDENT
from ..inference.onnx_files import facts_of, write_onnx
from ..inference.running import FINDER_FILE, PRESENCE_FILE, STUDENT_FILE
from ..network.finder import FINDER_PX
from ..network.hand_student import load_student
from ..network.presence import PRESENCE_PX
from ..skeleton import BONES, FINGER_COLOURS, JOINTS

OWN = Path(__file__).parents[1] / "page"
FILES = ("index.html", "page.css", "page.js", "hand.js")
PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
RUNTIME = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
ABOUT = (
    "The network is cmkg's hand student; it runs by onnxruntime-web (MIT licence, Microsoft). Its "
    "size in millimetres is that of a usual hand: a picture does not tell it."
)


@dataclass(frozen=True)
class Page:
    """Settings of a page."""

    weights: str = ""
    """A folder that `cmkg export` wrote; empty = the student that comes with cmkg."""
    out: str = "page"
    """Folder to write."""
    onnxruntime_web: str = ""
    """Folder `dist` of the npm package onnxruntime-web; empty fetches it with npm."""


def run(config: Page) -> None:
    """Writes the page.

    Raises:
        InputError: no student, no onnxruntime-web, or a folder that holds something else.
    """
    folder = Path(config.weights or STUDENT)
    student = load_student(folder)
    out = Path(config.out)
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not is_page(out))):
        raise InputError(f"--out {out}: holds something else; give an empty or a new folder")
    with tempfile.TemporaryDirectory() as home:
        runtime = Path(config.onnxruntime_web or fetch_runtime(Path(home)))
        missing = [name for name in RUNTIME if not (runtime / name).exists()]
        if missing:
            raise InputError(
                f"--onnxruntime-web {runtime}: expected the package's folder dist with "
                f"{missing[0]}, found none"
            )
        out.mkdir(parents=True, exist_ok=True)
        for source in (*(OWN / name for name in FILES), *(runtime / name for name in RUNTIME)):
            copy_file(source, out / source.name)
        networks = [folder / name for name in (STUDENT_FILE, FINDER_FILE, PRESENCE_FILE)]
        for source in networks:
            (out / source.name).unlink(missing_ok=True)
            if source.exists():
                copy_file(source, out / source.name)
        if not networks[0].exists():
            write_onnx(student, out / STUDENT_FILE)
    facts = facts_of(student)
    page_facts = {
        "px": student.px,
        "finder_px": FINDER_PX if networks[1].exists() else 0,
        "presence_px": PRESENCE_PX if networks[2].exists() else 0,
        "upright": student.config.upright,
        "bone_mm": float(facts["bone_mm"]),
        "joints": list(JOINTS),
        "bones": [list(bone) for bone in BONES],
        "colours": list(FINGER_COLOURS),
        "units": UNITS,
        "about": ABOUT,
    }
    write_json(out / "hand.json", page_facts)
    print(f"{out}: serve it, e.g. with python -m http.server --directory {out}")


def is_page(folder: Path) -> bool:
    """Whether an earlier call wrote this folder, or began to."""
    return (folder / FILES[0]).exists() and all(
        one.name.startswith(
            (*FILES, *RUNTIME, STUDENT_FILE, FINDER_FILE, PRESENCE_FILE, "hand.json")
        )
        for one in folder.iterdir()
    )


def copy_file(source: Path, to: Path) -> None:
    """Copies a file, atomically."""
    write_atomically(to, lambda partial: shutil.copyfile(source, partial))


def fetch_runtime(home: Path) -> Path:
    """onnxruntime-web's files, by npm.

    Raises:
        InputError: npm is not there, or cannot fetch it.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise InputError(
            f"npm is not there to fetch {PACKAGE}: install it, or give --onnxruntime-web, the "
            "folder dist of that package"
        )
    command = [npm, "pack", f"{PACKAGE}@{VERSION}", "--json", "--silent"]
    done = subprocess.run(command, cwd=home, capture_output=True, text=True, check=False)
    packed = sorted(home.glob("*.tgz"))
    if done.returncode or not packed:
        reason = (done.stderr.strip().splitlines() or json.dumps(done.returncode).splitlines())[-1]
        raise InputError(f"npm could not fetch {PACKAGE}@{VERSION}: {reason}")
    with tarfile.open(packed[0]) as archive:
        for name in RUNTIME:
            archive.extract(f"package/dist/{name}", home, filter="data")
    return home / "package/dist"
