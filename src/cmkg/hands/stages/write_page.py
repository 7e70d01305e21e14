"""`cmkg page`: a folder that any static server can serve, and that finds hands without us."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ...errors import InputError
from ...runtime.checks import expect_apart
from ...runtime.files import read_file, write_atomically, write_json
from ...runtime.locks import expect_own_folder
from ...runtime.text import printable
from ..inference.exchange import UNITS
from ..inference.export_files import FINDER_FILE, PRESENCE_FILE, STUDENT_FILE, read_own_file
from ..inference.hand import OWN as STUDENT
from ..inference.onnx_files import write_onnx
from ..inference.running import Networks, facts_of
from ..network.finder import FINDER_PX
from ..network.hand_student import load_student
from ..network.presence import PRESENCE_PX
from ..skeleton import BONES, FINGER_COLOURS, JOINTS

OWN = Path(__file__).parents[1] / "page"
FILES = ("index.html", "page.css", "page.js", "hand.js")
PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
FACTS = "hand.json"
MOST_RUNTIME_BYTES = 1 << 26
# Its files and their SHA-256: what is downloaded is what was tested.
RUNTIME = {
    "ort.wasm.min.mjs": ("219e6a1fc8a9938268d18efca3c91d310bd2f4a59bbd13744df5b2b7fc6cee3b"),
    "ort-wasm-simd-threaded.mjs": (
        "e13f7f94fc51b4ca72b12faeb1ee95f4ace6dfbc8939bc718aabdc0a27c4299b"
    ),
    "ort-wasm-simd-threaded.wasm": (
        "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2"
    ),
}
WRITTEN = (*FILES, *RUNTIME, STUDENT_FILE, FINDER_FILE, PRESENCE_FILE, FACTS)
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
    expect_apart(out, folder)
    expect_own_folder(out, WRITTEN, (FACTS,))
    with tempfile.TemporaryDirectory() as home:
        runtime = Path(config.onnxruntime_web or fetch_runtime(Path(home)))
        files = {name: read_runtime(runtime / name) for name in RUNTIME}
        files |= {name: (OWN / name).read_bytes() for name in FILES}
        networks = [folder / name for name in (STUDENT_FILE, FINDER_FILE, PRESENCE_FILE)]
        Networks.of_folder(folder, student)  # they are networks, and of this student
        for source in networks:
            if source.exists():
                files[source.name] = read_own_file(folder, source.name, "an ONNX file")
        if not networks[0].exists():
            write_onnx(student, Path(home) / STUDENT_FILE)
            files[STUDENT_FILE] = (Path(home) / STUDENT_FILE).read_bytes()
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
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / FACTS, page_facts)  # the mark, too, that the folder is ours
    for source in networks:
        if source.name not in files:
            (out / source.name).unlink(missing_ok=True)
    for name, data in files.items():
        write_atomically(out / name, partial(_write_bytes, data))
    print(printable(f"{out}: serve it, e.g. with python -m http.server --directory {out}"))


def _write_bytes(data: bytes, path: Path) -> None:
    path.write_bytes(data)


def read_runtime(path: Path) -> bytes:
    """One of onnxruntime-web's files, the very one that the page was tested with.

    Raises:
        InputError: it is missing, or another.
    """
    data = read_file(path, f"{PACKAGE}'s {path.name}", f"give its {VERSION}", MOST_RUNTIME_BYTES)
    if hashlib.sha256(data).hexdigest() != RUNTIME[path.name]:
        raise InputError(
            f"{path}: is not the file of {PACKAGE} {VERSION} (checksum); give the folder dist of "
            "that very version"
        )
    return data


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
