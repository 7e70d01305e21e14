import cv2
import numpy as np
import pytest

from cmkg.errors import InputError
from cmkg.hands.commands import data_info, data_inspect, data_pack, data_verify
from cmkg.hands.datasets.packed.format import Packed
from cmkg.hands.stages.which_dataset import Which, open_dataset
from tests.hands.copies import rewrite

CHOICES = [
    ("rhd", "training", {}),
    ("rhd", "evaluation", {}),
    ("stb", "train", {}),
    ("stb", "test", {"camera": "SK_color"}),
    ("stb", "test", {"camera": "BB_right"}),
    ("freihand", "train", {"domain": "sample"}),
    ("freihand", "test", {}),
    ("freihand", "evaluation", {}),
]


@pytest.mark.parametrize(
    ("name", "split", "more"), CHOICES, ids=lambda v: str(v) if isinstance(v, str) else ""
)
def test_inspect_verify_pack_info(made_sets, tmp_path, capsys, name, split, more):
    which = Which(name, str(made_sets[name]), split, px=40, **more)
    data_inspect.run(data_inspect.Inspect(which, str(tmp_path / "sheet.png"), count=2))
    assert cv2.imread(str(tmp_path / "sheet.png")).std() > 10
    data_verify.run(data_verify.Verify(which, workers=1))
    data_pack.run(data_pack.Pack(which, str(tmp_path / "set"), workers=1))
    data_info.run(data_info.PackedInfo(str(tmp_path / "set")))
    said = capsys.readouterr().out
    assert "every file and field is as expected" in said
    assert "checksums    match" in said
    packed = Packed(tmp_path / "set")
    assert (packed.depth is not None) == (name == "rhd")
    assert packed.meta["holds"]["made"]
    assert len(packed) == len(open_dataset(which))


def test_verify_lists_everything_and_stops_at_nothing(copies, capsys):
    root = copies("rhd")
    (root / "training/color/00001.png").unlink()
    (root / "training/depth/00002.png").write_bytes(
        (root / "training/depth/00002.png").read_bytes()[:-30]
    )
    cv2.imwrite(str(root / "training/mask/00003.png"), np.zeros((100, 100), np.uint8))

    def spoil(labels):
        labels[4]["xyz"][:, 2] *= -1
        labels[5]["K"] = np.eye(2)
        labels[6]["xyz"][:] = np.nan
        labels[7]["K"][0, 2] += 5000

    rewrite(root / "training/anno_training.pickle", spoil)
    with pytest.raises(InputError, match=r"7 finding\(s\) in 8 samples"):
        data_verify.run(data_verify.Verify(Which("rhd", str(root)), workers=1))
    said = capsys.readouterr().out
    for part in (
        "color/00001.png: no such file",
        "depth/00002.png: expected a whole picture, its end is missing",
        "mask/00003.png: expected 320 x 320 pixels, found 100 x 100",
        "id 4: joint 0 is behind the camera",
        "id 5, field 'K' has shape (2, 2)",
        "id 6, field 'xyz' holds a number that is not finite",
        "id 7: joint 0 projects to",
    ):
        assert part in said, part


def test_a_dataset_that_is_not_there_is_one_sentence_with_layout_and_owner(tmp_path):
    for name, owner in (
        ("rhd", "lmb.informatik"),
        ("stb", "sites.google.com"),
        ("freihand", "lmb.informatik"),
    ):
        with pytest.raises(
            InputError, match=f"no such folder; expected .*its owners publish it at {owner}"
        ):
            data_verify.run(data_verify.Verify(Which(name, str(tmp_path / "none"))))
