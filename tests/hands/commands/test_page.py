import functools
import http.server
import json
import queue
import shutil
import subprocess
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from cmkg import Hand
from cmkg.errors import InputError
from cmkg.hands.commands import page as write_page
from cmkg.hands.inference.hand import OWN
from cmkg.hands.inference.pictures import write_picture
from tests.hands.photographs import beside_something_large, left_hand, right_hand, two_hands

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
# What the test adds to the page: it gives the page a picture, or presses its button, and sends back
# what the page says it found.
PROBE = """
const wait = (test) => new Promise((done) => {
  const look = () => test() ? done() : setTimeout(look, 50);
  look();
});
const tell = (what) => fetch("/told", { method: "POST", body: JSON.stringify(what) });
window.addEventListener("error", (event) => tell({ error: event.message }));
await wait(() => document.getElementById("status").textContent.startsWith("Ready"));
let count = 0, began = 0;
document.addEventListener("hands", (event) => {
  began ||= performance.now();
  count += 1;
  if (MODE === "picture" || count === 6) {
    tell({
      ...event.detail,
      rate: 1000 * (count - 1) / (performance.now() - began),
      status: document.getElementById("status").textContent,
      label: document.getElementById("picture").getAttribute("aria-label"),
      wide: document.documentElement.scrollWidth - innerWidth,
    });
  }
});
document.getElementById("side").value = "SIDE";
if (MODE === "picture") {
  const blob = await (await fetch("/picture.png")).blob();
  const data = new DataTransfer();
  data.items.add(new File([blob], "picture.png", { type: "image/png" }));
  document.getElementById("file").files = data.files;
  document.getElementById("file").dispatchEvent(new Event("change"));
} else {
  document.getElementById("camera").click();
}
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    home = tmp_path_factory.mktemp("page")
    write_page.run(write_page.Page(out=str(home / "site")))
    return home


class Handler(http.server.SimpleHTTPRequestHandler):
    extensions_map = http.server.SimpleHTTPRequestHandler.extensions_map | {
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
    }

    def do_GET(self):
        if self.path == "/":
            text = Path(self.directory, "index.html").read_text()
            text = text.replace("</body>", '<script type="module" src="/probe.js"></script></body>')
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(text.encode())
            return
        super().do_GET()

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.told.put(json.loads(body))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


def visit(site, profile, mode, side="right", *flags):
    """What the page says it found, seen through a real browser."""
    (site / "probe.js").write_text(PROBE.replace("MODE", json.dumps(mode)).replace("SIDE", side))
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=str(site))
    )
    server.told = queue.Queue()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    options = ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=390,900")
    browser = subprocess.Popen(
        [
            BROWSER,
            *options,
            f"--user-data-dir={profile}",
            *flags,
            f"http://127.0.0.1:{server.server_port}/",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        return server.told.get(timeout=120)
    finally:
        browser.terminate()
        browser.wait()
        server.shutdown()


@pytest.mark.skipif(BROWSER is None, reason="no browser here")
@pytest.mark.parametrize("shown", [right_hand, left_hand, two_hands, beside_something_large])
def test_the_page_finds_what_python_finds(page, tmp_path, shown):
    write_picture(page / "site/picture.png", shown())
    told = visit(page / "site", tmp_path / "profile", "picture", "any")
    assert "error" not in told, told
    found = Hand.from_pretrained()(shown())
    assert len(told["hands"]) == len(found) > 0
    assert told["wide"] <= 0  # nothing to scroll sideways on a phone
    for own, right in zip(told["hands"], found, strict=True):
        assert own["side"] == right.side
        off = np.abs(np.array(own["points"]) - right.joints_px).max()
        assert off < 0.02 * right.box[2]  # two decoders, two ways to average pixels
        np.testing.assert_allclose(own["joints"], right.joints_mm, atol=3.0)


@pytest.mark.skipif(BROWSER is None, reason="no browser here")
def test_the_page_follows_a_camera(page, tmp_path):
    clip = tmp_path / "clip.mjpeg"
    with open(clip, "wb") as file:
        for step in range(20):
            large = cv2.resize(np.roll(two_hands(), 3 * step, axis=1), (640, 480))
            file.write(cv2.imencode(".jpg", large[..., ::-1])[1].tobytes())
    told = visit(
        page / "site",
        tmp_path / "profile",
        "camera",
        "right",
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-video-capture={clip}",
    )
    assert "error" not in told, told
    assert (told["width"], told["height"]) == (640, 480)
    assert [one["side"] for one in told["hands"]] == ["right"]  # the one that was asked for
    assert told["rate"] > 0
    assert "frames a second" not in told["status"] or 0 < float(told["status"].split()[-4]) < 61


def test_what_cannot_be_written_is_one_sentence(tmp_path):
    with pytest.raises(InputError, match="none: expected a folder that `cmkg adapt`"):
        write_page.run(write_page.Page(str(tmp_path / "none"), str(tmp_path / "out")))
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").write_text("mine")
    with pytest.raises(InputError, match="holds something else"):
        write_page.run(write_page.Page(out=str(tmp_path / "other")))
    shutil.copytree(OWN, tmp_path / "hand")
    inside = write_page.Page(str(tmp_path / "hand"), str(tmp_path / "hand/page"))
    with pytest.raises(InputError, match="lies in what this command reads"):
        write_page.run(inside)
    with pytest.raises(InputError, match="--max-hands"):
        write_page.Page(max_hands=0)
    assert not (tmp_path / "out").exists()
