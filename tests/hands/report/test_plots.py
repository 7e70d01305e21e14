import io
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest

from cmkg.hands.metrics import THRESHOLDS_MM
from cmkg.hands.report import plots

ROW = {
    "label": "a & b",
    "pck": np.linspace(0, 1, len(THRESHOLDS_MM)),
    "auc_20_50": {"mean": 0.5},
    "weights": {"counts": [1, 3, 2], "edges": [-1, -0.5, 0.5, 1]},
}
LAYER = {"q10": -1.0, "median": 0.0, "q90": 2.0}


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plots.plot_pck_curves([ROW] * 9),
        lambda: plots.plot_weight_histograms([ROW]),
        lambda: plots.plot_prior_by_layer({"p = 1": {"a": LAYER}, "p = 2": {"a": LAYER}}),
        lambda: plots.plot_published_curves(
            [("ours", ROW)], [plots.PublishedCurve("theirs", 0.9, (20, 50), (0.5, 1))]
        ),
    ],
)
def test_a_figure_is_svg_and_the_same_bytes_each_time(draw):
    first = draw()
    assert ElementTree.fromstring(first).tag.endswith("svg")
    assert draw() == first


def test_a_skeleton_is_drawn_where_its_joints_are_seen():
    K = np.array([[40.0, 0, 20], [0, 40, 20], [0, 0, 1]])
    joints = np.zeros((21, 3)) + [0, 0, 100.0]
    joints[:, 0] = np.linspace(-20, 20, 21)  # on a line, from pixel 12 to 28
    black = np.zeros((40, 40, 3), np.uint8)
    picture = plots.skeleton_picture(black, K, joints, size=80)
    painted = np.argwhere(picture.any(2))
    assert picture.shape == (80, 80, 3)
    assert abs(painted[:, 0].mean() - 41) < 1.5
    assert 22 <= painted[:, 1].min() < 27
    assert 55 < painted[:, 1].max() <= 60


def test_near_is_bright_and_unmeasured_is_blue():
    depth = np.array([[450, 550], [0, 5000]], np.uint16)
    picture = plots.depth_picture(depth, 500.0, size=2)
    assert picture[0, 0, 0] > picture[0, 1, 0] > picture[1, 1, 0] == 60
    assert picture[1, 0].tolist() == [20, 20, 60]


def test_a_sheet_is_a_picture():
    pictures = [np.full((8, 8, 3), 200, np.uint8)] * 2
    data = plots.contact_sheet([pictures, pictures, pictures], ["one", "two"], size=40)
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert decoded.shape[1] > decoded.shape[0]
    assert io.BytesIO(data).read(4) == b"\x89PNG"


def test_a_label_is_never_mathematics():
    rows = [
        {"label": r"costs $\frac{1$ and $2", "auc_20_50": {"mean": 0.5}, "pck": [0.5] * 20},
    ]
    assert "costs" in plots.plot_pck_curves(rows)
    pictures = [np.zeros((8, 8, 3), np.uint8)]
    assert plots.contact_sheet([pictures], [r"$\nothing{$"], size=40)
