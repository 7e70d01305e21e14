import json

import numpy as np
import pytest

from cmkg.errors import InputError
from cmkg.hands.commands import data_info, data_pack
from cmkg.hands.datasets.freihand import FreiHand
from cmkg.hands.datasets.packed.format import Packed, subsets_in
from cmkg.hands.datasets.rhd import Rhd
from cmkg.hands.stages.which_dataset import Which
from tests.hands.copies import clear, rewrite


def pack(root, dataset, out, **which):
    config = Which(dataset, str(root), px=24, **which)
    data_pack.run(data_pack.Pack(config, str(out), workers=1))
    return Packed(out)


def test_part_of_a_copy_is_packed_as_a_subset_and_never_as_a_whole(copies, tmp_path):
    root = copies("freihand")
    for path in sorted((root / "training/rgb").iterdir())[3:6]:
        path.unlink()
    out = tmp_path / "set"
    with pytest.raises(InputError, match="3 of its files are missing, the first is .*00000003.jpg"):
        pack(root, "freihand", out)
    assert not list(tmp_path.glob("set*"))  # nothing was allocated
    packed = pack(root, "freihand", out, only_present=True)
    assert packed.meta["holds"]["subset"] == "5 of 8: those whose files are there"
    assert subsets_in(tmp_path) == ["set is a subset: 5 of 8: those whose files are there"]
    whole = FreiHand(str(root), px=24)
    np.testing.assert_array_equal(packed.rgb[3], whole.samples([6])[0].rgb)


def test_ids_need_not_be_consecutive(copies, tmp_path):
    root = copies("rhd")
    whole = Rhd(str(root), px=24).samples([5])[0]
    rewrite(root / "training/anno_training.pickle", lambda held: [held.pop(i) for i in (0, 2, 3)])
    with pytest.raises(InputError, match="found a dict of 5; copy the file again, or take what is"):
        pack(root, "rhd", tmp_path / "a")
    packed = pack(root, "rhd", tmp_path / "b", only_present=True)
    assert len(packed) == 5
    np.testing.assert_array_equal(packed.rgb[2], whole.rgb)  # ids 1, 4, 5, 6, 7


def test_label_files_may_be_shorter_than_published(copies, tmp_path):
    root = copies("freihand")
    for name in ("K", "xyz"):
        path = root / f"training_{name}.json"
        path.write_text(json.dumps(json.loads(path.read_text())[:4]))
    clear()
    with pytest.raises(InputError, match="holds 4 entries"):
        pack(root, "freihand", tmp_path / "a")
    assert len(pack(root, "freihand", tmp_path / "b", only_present=True)) == 4


def test_chosen_samples_and_their_shards_count_themselves(copies, tmp_path, capsys):
    root = copies("rhd")
    packed = pack(root, "rhd", tmp_path / "a", indices="5,0-2")
    whole = Rhd(str(root), px=24)
    for place, number in enumerate((5, 0, 1, 2)):
        np.testing.assert_array_equal(packed.rgb[place], whole.samples([number])[0].rgb)
    assert packed.meta["holds"]["count"] == 4
    config = Which("rhd", str(root), px=24)
    data_pack.run(data_pack.Pack(config, str(tmp_path / "shard"), workers=1, shard="1/3"))
    capsys.readouterr()
    data_info.run(data_info.PackedInfo(str(tmp_path / "shard")))
    assert "count        3" in capsys.readouterr().out  # of 8


def test_a_subset_of_a_subset_names_samples_of_the_whole(copies, tmp_path):
    root = copies("freihand")
    (root / "training/rgb/00000003.jpg").unlink()
    packed = pack(root, "freihand", tmp_path / "a", only_present=True, indices="3-4")
    part = packed.meta["holds"]["subset"]
    assert part == "2 of 8: 3-4 of those whose files are there"
    whole = FreiHand(str(root), px=24)
    np.testing.assert_array_equal(packed.rgb[0], whole.samples([4])[0].rgb)
    again = Which("packed", str(tmp_path / "a"), indices="1")
    data_pack.run(data_pack.Pack(again, str(tmp_path / "b"), workers=1))
    assert Packed(tmp_path / "b").meta["holds"]["subset"] == f"1 of 2: 1; of a subset: {part}"
    with pytest.raises(InputError, match="keeps its pixels, margin and split"):
        pack(tmp_path / "a", "packed", tmp_path / "c")


def test_labels_of_a_subset_are_its_own(made_sets, tmp_path):
    root = made_sets["folder"]
    packed = pack(root, "folder", tmp_path / "a", split="train", indices="0,4")
    assert packed.meta["holds"]["without_label"] == 0
    assert packed.labelled is None
    with pytest.raises(InputError, match="no sample of this split has a label"):
        pack(root, "folder", tmp_path / "b", split="train", indices="1-2")
    assert not list(tmp_path.glob("b*"))


@pytest.mark.parametrize("indices", ["9", "3-1", "a", "-1", "0-8", "1,,2"])
def test_numbers_that_are_none_are_refused(copies, tmp_path, indices):
    with pytest.raises(InputError, match="--indices: expected numbers and ranges from 0 to 7"):
        pack(copies("rhd"), "rhd", tmp_path / "a", indices=indices)
