import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from cmkg.errors import InputError
from cmkg.hands.commands import data_pack
from cmkg.hands.datasets.folder import Folder
from cmkg.hands.datasets.freihand import FreiHand
from cmkg.hands.datasets.packed import pack as packed_module
from cmkg.hands.datasets.packed.format import Packed, verify_checksums
from cmkg.hands.datasets.packed.labelled_set import open_frames, open_source
from cmkg.hands.datasets.packed.merge import merge_shards
from cmkg.hands.datasets.packed.pack import TO_DO, Shard, allocate_array, pack
from cmkg.hands.network.loader import Loader, convention_matrix
from cmkg.hands.rendering.scenes import SceneConfig
from cmkg.hands.stages.which_dataset import Which, open_dataset
from cmkg.hands.synthesis.rendered import Rendered
from cmkg.hands.synthesis.synthetic import make_dataset
from cmkg.runtime.partial_folders import MARK

HANDS = Rendered(SceneConfig(px=32, seed=3), count=40)


@pytest.fixture(scope="session")
def packed_folder(tmp_path_factory):
    return pack(HANDS, tmp_path_factory.mktemp("packed") / "set", workers=1).folder


def test_a_pack_holds_what_the_dataset_yields(packed_folder):
    packed = Packed(packed_folder)
    for i, sample in zip((0, 37), HANDS.samples([0, 37]), strict=False):
        for name in ("rgb", "depth"):
            np.testing.assert_array_equal(getattr(packed, name)[i], getattr(sample, name))
        np.testing.assert_allclose(packed.joints_mm[i], sample.joints_mm, rtol=1e-6)
    assert packed.meta["bone_mm"] == pytest.approx(
        np.linalg.norm(packed.joints_mm[:, 9] - packed.joints_mm[:, 10], axis=1).mean(), rel=1e-5
    )
    verify_checksums(packed_folder)


@pytest.mark.long
def test_several_processes_write_the_same_set(packed_folder, tmp_path):
    other = pack(Rendered(HANDS.config, 40), tmp_path / "two", workers=2)
    assert json.loads((packed_folder / "meta.json").read_text())["crc32"] == other.meta["crc32"]
    big = pack(Rendered(SceneConfig(px=16), 130), tmp_path / "pool", workers=2)
    one = pack(Rendered(SceneConfig(px=16), 130), tmp_path / "one", workers=1)
    assert big.meta["crc32"] == one.meta["crc32"]


@pytest.mark.long
def test_a_killed_pack_goes_on(tmp_path):
    code = (
        "from cmkg.hands.datasets.packed.pack import pack; from cmkg.hands.synthesis.rendered "
        "import Rendered; "
        "from cmkg.hands.rendering.scenes import SceneConfig; "
        "pack(Rendered(SceneConfig(px=32), 224), "
        f"{str(tmp_path / 'set')!r}, 1)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    chunks = tmp_path / "set.partial" / "chunks.npy"
    deadline = time.time() + 60
    while time.time() < deadline and not (
        chunks.exists() and chunks.stat().st_size > 183 and (np.load(chunks) != TO_DO).sum() >= 2
    ):
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "set").exists()
    assert 2 <= (np.load(chunks) != TO_DO).sum() < 7
    half = np.lib.format.open_memmap(tmp_path / "set.partial/rgb.npy", "r+")
    half[3] = 0  # what a bad disk makes of a part that is done
    half.flush()
    resumed = pack(Rendered(SceneConfig(px=32), 224), tmp_path / "set", workers=1)
    unbroken = pack(Rendered(SceneConfig(px=32), 224), tmp_path / "again", workers=1)
    assert resumed.meta["crc32"] == unbroken.meta["crc32"]


def broken(folder, tmp_path, damage):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    damage(copy)
    return copy


def truncate(copy):
    with open(copy / "rgb.npy", "r+b") as f:
        f.truncate(1000)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (truncate, "rgb.npy: expected"),
        (lambda c: (c / "K.npy").unlink(), "K.npy: no such file; expected"),
        (lambda c: np.save(c / "K.npy", np.zeros((3, 3))), r"K.npy: holds \(3, 3\)"),
        (lambda c: (c / "meta.json").unlink(), "expected a packed set"),
        (lambda c: (c / "meta.json").write_text("{"), "meta.json: expected JSON"),
        (lambda c: (c / "meta.json").write_text("{}"), "field 'format' is None"),
    ],
)
def test_a_damaged_pack_is_one_sentence(packed_folder, tmp_path, damage, sentence):
    with pytest.raises(InputError, match=sentence):
        Packed(broken(packed_folder, tmp_path, damage))


def test_a_changed_byte_is_found(packed_folder, tmp_path):
    def change(copy):
        with open(copy / "depth.npy", "r+b") as f:
            f.seek(5000)
            f.write(b"\xff\x00\xff")

    with pytest.raises(InputError, match="depth.npy: its checksum"):
        verify_checksums(broken(packed_folder, tmp_path, change))


def test_merged_shards_are_the_whole_set(packed_folder, tmp_path):
    for i in range(3):
        pack(Shard(HANDS, f"{i}/3"), tmp_path / f"{i}", workers=1)
    (tmp_path / "whole.partial").mkdir()  # somebody's killed pack
    whole = merge_shards([tmp_path / n for n in "201"], tmp_path / "whole")
    assert (tmp_path / "whole.partial").is_dir()
    assert whole.meta == Packed(packed_folder).meta
    with pytest.raises(
        InputError, match="expected the shards 0/3 to 2/3, each once; found 0/3, 2/3"
    ):
        merge_shards([tmp_path / "0", tmp_path / "2"], tmp_path / "other")
    pack(Shard(Rendered(SceneConfig(px=32, seed=4), 40), "1/3"), tmp_path / "stranger", workers=1)
    with pytest.raises(InputError, match="holds another set"):
        merge_shards([tmp_path / "0", tmp_path / "stranger", tmp_path / "2"], tmp_path / "other")
    with pytest.raises(InputError, match="--shard: expected i/n with 0 <= i < n <= 40, got '3/3'"):
        Shard(HANDS, "3/3")
    assert not (tmp_path / "other").exists()


def test_another_set_in_the_same_folder_is_refused(packed_folder):
    with pytest.raises(InputError, match="seed = 3, asked for is 4"):
        pack(Rendered(SceneConfig(px=32, seed=4), 40), packed_folder)


def test_an_unreadable_image_leaves_no_half_pack(photographs, tmp_path):
    with pytest.raises(InputError, match="00003.jpg"):
        pack(Folder(str(photographs[0]), "train", 32), tmp_path / "out" / "set", workers=1)
    assert not (tmp_path / "out" / "set").exists()


def test_a_joined_set_is_both_in_the_convention_of_the_first(tmp_path):
    a, b = (
        pack(Rendered(SceneConfig(px=24, seed=s), n), tmp_path / f"{s}", workers=1)
        for s, n in ((1, 6), (2, 4))
    )
    both = ("rgb", "depth")
    joined = open_source(a.folder, b.folder)
    batch = Loader(joined, 16, "cpu", both).fetch(np.array([7, 0, 9, 3]))
    first = Loader(open_frames(a), 16, "cpu", both).fetch([0, 3])
    second = Loader(open_frames(b), 16, "cpu", both).fetch([1, 3])
    assert len(joined) == 10
    for key in ("rgb", "depth", "uv"):  # the picture and the places on it stay
        assert (getattr(batch, key)[:2] == getattr(first, key)).all()
        assert (getattr(batch, key)[2:] == getattr(second, key)).all()
    expected = second.to_convention(convention_matrix(b, a))
    for key in ("joints", "scale_mm"):
        found, own, other = (getattr(part, key) for part in (batch, first, expected))
        assert (found[:2] == own).all()
        torch.testing.assert_close(found[2:], other)


@pytest.mark.parametrize("known", [True, False])
def test_space_is_taken_before_anything_is_written(tmp_path, monkeypatch, known):
    """Also on systems that cannot reserve it: there it is written."""
    if not known:
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
    array = allocate_array(tmp_path / "a.npy", "uint16", (100, 1000))
    stat = (tmp_path / "a.npy").stat()
    assert stat.st_blocks * 512 >= stat.st_size > 200_000
    array[:] = 7
    array.flush()
    assert (np.load(tmp_path / "a.npy") == 7).all()


def test_what_is_left_of_a_damaged_pack_is_made_anew(tmp_path):
    partial = tmp_path / "set.partial"
    partial.mkdir()
    hands = Rendered(SceneConfig(px=16), 40)
    (partial / "holds.json").write_text(json.dumps(hands.describe()))
    (partial / "chunks.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(InputError, match="it was not begun by cmkg"):
        pack(hands, tmp_path / "set", workers=1)
    (partial / MARK).touch()
    assert len(pack(hands, tmp_path / "set", workers=1)) == 40


LABELS = {
    "rhd": "training/anno_training.pickle",
    "stb": "labels/B2Counting_BB.mat",
    "freihand": "training_xyz.json",
    "dexycb": "calibration/intrinsics/*_640x480.yml",
    "ho3d": "train/MC1/meta/0000.pkl",
    "interhand": "annotations/train/InterHand2.6M_train_joint_3d.json",
    "folder": "joints.json",
}


@pytest.mark.long
@pytest.mark.parametrize("name", list(LABELS))
@pytest.mark.parametrize("changed", ["labels", "a picture"])
def test_a_set_whose_labels_or_pictures_were_corrected_is_not_reused(
    made_sets, tmp_path, name, changed
):
    root = tmp_path / "root"
    if name in made_sets:
        shutil.copytree(made_sets[name], root)
    else:
        make_dataset(name, root, 8)
    which = Which(name, str(root), px=32)
    out = str(tmp_path / "set")
    data_pack.run(data_pack.Pack(which, out, workers=1))
    dataset = open_dataset(which)
    picture = dataset.files(0)[0]
    os.utime(picture)  # another time alone is no other picture
    data_pack.run(data_pack.Pack(which, out, workers=1))
    for path in sorted(root.glob(LABELS[name]))[:1] if changed == "labels" else [picture]:
        path.write_bytes(path.read_bytes() + b"\n")  # still read, and another file
    with pytest.raises(InputError, match=r"labels_crc32|records_crc32|other pictures"):
        data_pack.run(data_pack.Pack(which, out, workers=1))


def test_a_killed_pack_takes_the_corrected_pictures(made_sets, tmp_path, monkeypatch):
    root = tmp_path / "root"
    shutil.copytree(made_sets["freihand"], root)
    which = Which("freihand", str(root), px=32)
    whole = FreiHand(str(root), "train", "gs", 32, 1.25, True)
    monkeypatch.setattr(packed_module, "CHUNK", 2)
    real = packed_module._write_chunk

    def killed(dataset, partial, names, chunk):
        if chunk == 2:
            raise KeyboardInterrupt
        real(dataset, partial, names, chunk)

    monkeypatch.setattr(packed_module, "_write_chunk", killed)
    with pytest.raises(KeyboardInterrupt):
        data_pack.run(data_pack.Pack(which, str(tmp_path / "set"), workers=1))
    monkeypatch.setattr(packed_module, "_write_chunk", real)
    shutil.copy(whole.files(5)[0], whole.files(0)[0])
    data_pack.run(data_pack.Pack(which, str(tmp_path / "set"), workers=1))
    data_pack.run(data_pack.Pack(which, str(tmp_path / "again"), workers=1))
    for path in sorted((tmp_path / "set").iterdir()):
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name


@pytest.mark.parametrize("name", ["set.partial", "set.merging", "made.partial", "set.lock"])
def test_nothing_of_the_users_is_taken_or_deleted(tmp_path, name):
    hands = Rendered(SceneConfig(px=16), 4)
    shards = [
        pack(Shard(hands, f"{i}/2"), tmp_path / f"shard{i}", workers=1).folder for i in range(2)
    ]
    mine = tmp_path / name
    if name.endswith(".lock"):
        mine.write_text("mine")
    else:
        mine.mkdir()
        (mine / "thesis.txt").write_text("mine")
    write = {
        "made.partial": lambda: make_dataset("folder", tmp_path / "made", 4),
        "set.merging": lambda: merge_shards(shards, tmp_path / "set"),
    }.get(name, lambda: pack(hands, tmp_path / "set", workers=1))
    with pytest.raises(InputError, match="is in the way"):
        write()
    held = mine if name.endswith(".lock") else mine / "thesis.txt"
    assert held.read_text() == "mine"
