"""`cmkg page`: writes a web page that finds hands; any static file server can host it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...runtime.checks import expect_apart, expect_between
from ...runtime.files import write_bytes, write_json
from ...runtime.locks import expect_own_folder
from ...runtime.text import printable
from ..files.exports import FACTS_FILE, LANDMARKS_FILE, PALMS_FILE, read_own_file
from ..inference.exchange import FORMAT, UNITS
from ..inference.hand import MOST_HANDS, OWN
from ..inference.hand_files import read_hand_folder
from ..skeleton import BONES, FINGER_COLOURS, JOINTS

PAGE = Path(__file__).parents[1] / "page"
# LiteRT.js runs the networks; it ships with cmkg: page/litert/README.md.
FILES = (
    "index.html",
    "page.css",
    "page.js",
    "hand.js",
    "sample.jpg",
    "litert/core.js",
    "litert/wasm-utils.js",
    "litert/litert_wasm_compat_internal.js",
    "litert/litert_wasm_compat_internal.wasm",
    "litert/README.md",
)
WRITTEN = (*FILES, "litert", LANDMARKS_FILE, PALMS_FILE, FACTS_FILE)
ABOUT = (
    "The networks are MediaPipe's (Google, Apache-2.0), one of them taught further by cmkg; LiteRT "
    "runs them (Google, Apache-2.0). The size in millimetres is a usual hand's: a picture does not "
    "tell it."
)


@dataclass(frozen=True)
class Page:
    """Write a web page that finds hands."""

    weights: str = ""
    """Folder written by `cmkg adapt`. Empty: the network that ships with cmkg."""
    out: str = "page"
    """Output folder."""
    max_hands: int = 4
    """Maximum number of hands per picture; the most confident are kept."""

    def __post_init__(self) -> None:
        expect_between(self, 1, MOST_HANDS, "max_hands")


def run(config: Page) -> None:
    """Writes the page.

    Raises:
        InputError: --weights holds no hand network, or the output folder holds other files.
    """
    folder, out = Path(config.weights or OWN), Path(config.out)
    expect_apart(out, folder)
    expect_own_folder(out, WRITTEN, (FACTS_FILE,))
    _, facts = read_hand_folder(folder)
    files = {name: (PAGE / name).read_bytes() for name in FILES}
    for name in (LANDMARKS_FILE, PALMS_FILE):
        files[name] = read_own_file(folder, name, "a network's file")
    page_facts = {
        "format": FORMAT,
        "bone_mm": facts.bone_mm,
        "max_hands": config.max_hands,
        "joints": list(JOINTS),
        "bones": [list(bone) for bone in BONES],
        "colours": list(FINGER_COLOURS),
        "units": UNITS,
        "about": ABOUT,
    }
    (out / "litert").mkdir(parents=True, exist_ok=True)
    write_json(out / FACTS_FILE, page_facts)  # also marks the folder as ours
    for name, data in files.items():
        write_bytes(out / name, data)
    print(printable(f"{out}: serve it, e.g. with python -m http.server --directory {out}"))


SETTINGS = Page
