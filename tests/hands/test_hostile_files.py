"""The attack, as a table of generated cases by kind.

Each case is one sentence that names the file (InputError), or what was read is what was written:
nothing in between, and nothing that waits, grows or ends the process.
"""

import io
import json
import os
import pickle
import shutil
import struct
import zipfile
import zlib
from dataclasses import dataclass

import cv2
import numpy as np
import pytest
import torch
from scipy.io import savemat

from cmkg.errors import InputError
from cmkg.hands.datasets.packed.format import Packed
from cmkg.hands.datasets.packed.pack import pack
from cmkg.hands.files.arrays import checksum
from cmkg.hands.files.pickles import read_pickle
from cmkg.hands.files.reading import (
    read_depth,
    read_json_value,
    read_mat_field,
    read_npz,
    read_photograph,
    read_picture,
    read_yaml,
)
from cmkg.hands.inference import pictures
from cmkg.hands.rendering.scenes import SceneConfig
from cmkg.hands.report.collect import collect_run
from cmkg.hands.report.run_page import format_tables
from cmkg.hands.synthesis.rendered import Rendered
from cmkg.prior.prior import Prior
from cmkg.runtime.files import (
    read_arrays,
    read_json,
    read_sealed_json,
    write_arrays,
    write_sealed_json,
)
from cmkg.runtime.run import Run
from cmkg.runtime.run_records import read_checkpoint, read_log, read_result, read_sessions
from cmkg.runtime.weight_files import (
    load_sealed,
    load_weights,
    read_tensors,
    save_sealed,
    save_weights,
)

CASES = {
    "packed bytes": 60,
    "packed facts": 60,
    "checkpoints": 80,
    "sealed JSON": 40,
    "reports": 90,
    "weights and priors": 80,
    "pictures": 80,
    "labels": 60,
    "no regular files": 51,
}


def test_the_table_is_large():
    assert sum(CASES.values()) >= 500


def refused(read, path):
    """What a reader says of a file: one sentence that names it."""
    with pytest.raises(InputError) as caught:
        read(path)
    said = str(caught.value)
    assert path.name in said or path.parent.name in said, said
    assert "\n" not in said, said
    assert len(said) < 800, said
    return said


def refused_or_same(read, path, original):
    """Refused in a sentence; else what is read is what was written."""
    said, found = answer(lambda: read(path))
    if said:
        assert path.name in said
    else:
        assert same(found, original), f"{path}: other numbers were read without a word"


def answer(read):
    """What a reader refuses with, and what it gives."""
    try:
        return "", read()
    except InputError as error:
        return str(error), None


def same(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[name], b[name]) for name in a)
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def flipped(path, rng):
    """One bit anywhere in a file is another."""
    data = bytearray(path.read_bytes())
    at = int(rng.integers(len(data)))
    data[at] ^= 1 << int(rng.integers(8))
    path.write_bytes(bytes(data))


def shortened(path, rng):
    data = path.read_bytes()
    path.write_bytes(data[: int(rng.integers(len(data)))])


# ---- packed sets ---------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def packed_set(tmp_path_factory):
    hands = Rendered(SceneConfig(px=24, seed=5), 8)
    return pack(hands, tmp_path_factory.mktemp("hostile") / "set", workers=1).folder


ARRAYS = ("rgb", "depth", "joints_mm", "K", "rotation", "mirrored", "visible")


def test_packed_bytes(packed_set, tmp_path):
    for case in range(CASES["packed bytes"]):
        rng, folder = np.random.default_rng(case), tmp_path / f"{case}"
        shutil.copytree(packed_set, folder)
        damage = (flipped, flipped, shortened)[case % 3]
        damage(folder / f"{ARRAYS[case % len(ARRAYS)]}.npy", rng)
        with pytest.raises(InputError, match=ARRAYS[case % len(ARRAYS)]):
            Packed(folder)


def resealed(folder, change):
    """Somebody writes other facts, with all checksums right."""
    meta = read_sealed_json(folder / "meta.json")
    change(meta)
    write_sealed_json(folder / "meta.json", meta)


def other_numbers(name, change):
    def damage(folder):
        array = np.load(folder / f"{name}.npy")
        np.save(folder / f"{name}.npy", change(array))
        resealed(
            folder, lambda meta: meta["crc32"].update({name: checksum(folder / f"{name}.npy")})
        )

    return damage


def fact(field, value):
    return lambda folder: resealed(folder, lambda meta: meta.update({field: value}))


def array_fact(name, value):
    return lambda folder: resealed(folder, lambda meta: meta["arrays"].update({name: value}))


def with_first(value):
    def change(array):
        array[0] = value
        return array

    return change


def edited_by_hand(folder):
    path = folder / "meta.json"
    path.write_text(path.read_text().replace('"margin": 1.25', '"margin": 1.5'))


NO_LENGTHS = ([], [0.0] * 20, [1.0] * 19, [1.0] * 21, ["1"] * 20, {}, [-1.0] * 20, [1e9] * 20)
NO_ARRAYS = ({}, [], None, {"rgb": 1}, {"rgb": [[0, 24, 24, 3], "uint8"]})
NO_FACTS = ([], {"shard": 3}, {"shard": "1/0"}, {"shard": "x"}, {"subset": []}, {"count": "8"})
FACTS = [
    *(fact("margin", value) for value in (-1, 0, 0.5, 1e9, 5, float("nan"), True, "1.25", None)),
    *(fact("bone_mm", value) for value in (0, -30, 1e9, float("inf"), float("nan"), "30", [])),
    *(fact("bone_lengths", value) for value in NO_LENGTHS),
    *(fact("arrays", value) for value in NO_ARRAYS),
    *(fact("crc32", value) for value in ({}, [], {"rgb": 1}, None)),
    *(fact("format", value) for value in ("cmkg-packed/2", None, 1)),
    *(fact("holds", value) for value in NO_FACTS),
    array_fact("../../escape", [[8], "bool"]),
    array_fact("labelled", [[7], "bool"]),
    array_fact("labelled", [[8], "bool"]),
    array_fact("joints_mm", [[8, 21, 3], "float64"]),
    array_fact("joints_mm", [[7, 21, 3], "float32"]),
    array_fact("depth", [[8, 24, 25], "uint16"]),
    array_fact("depth", [[8, 24, 24], "int16"]),
    other_numbers("K", with_first(np.nan)),
    other_numbers("K", lambda K: -K),
    other_numbers("K", lambda K: 0 * K),
    other_numbers("joints_mm", with_first(np.inf)),
    other_numbers("joints_mm", lambda joints: joints * np.float32(1e6)),
    other_numbers("joints_mm", lambda joints: joints.astype(np.float64)),
    other_numbers("joints_mm", lambda joints: joints[:7]),
    other_numbers("rotation", lambda R: 2 * R),
    other_numbers("rotation", with_first(np.nan)),
    other_numbers("rgb", lambda rgb: rgb.astype(np.float32)),
    other_numbers("rgb", lambda rgb: np.asfortranarray(rgb)),
    other_numbers("visible", lambda seen: seen.astype(np.uint8)),
    edited_by_hand,
    lambda folder: (folder / "meta.json").write_text("[" * 100_000),
    lambda folder: (folder / "meta.json").write_text("null"),
]


def test_packed_facts(packed_set, tmp_path):
    assert len(FACTS) >= CASES["packed facts"]
    for case, damage in enumerate(FACTS):
        folder = tmp_path / f"{case}"
        shutil.copytree(packed_set, folder)
        damage(folder)
        with pytest.raises(InputError) as caught:
            Packed(folder)
        assert str(folder) in str(caught.value), case
    assert len(Packed(packed_set)) == 8


def test_a_file_that_is_changed_under_a_job_is_a_sentence(packed_set, tmp_path):
    """Memory-mapped, a file that is cut ends the process without a word."""
    for change in ("cut", "overwritten"):
        shutil.copytree(packed_set, tmp_path / change)
        packed = Packed(tmp_path / change)
        assert packed.rgb[[5, 7]].shape == (2, 24, 24, 3)
        with open(tmp_path / change / "rgb.npy", "r+b") as file:
            if change == "cut":
                file.truncate(4000)
            else:
                file.seek(5000)
                file.write(b"xyz")
        with pytest.raises(InputError, match="rgb.npy: was changed while this job read it"):
            packed.rgb[[5, 7]]


# ---- checkpoints ---------------------------------------------------------------------------------
@dataclass(frozen=True)
class Settings:
    rate: float = 0.1


def net():
    torch.manual_seed(0)
    return torch.nn.Linear(5, 4)


@pytest.fixture
def run_folder(tmp_path):
    run = Run(tmp_path / "run", Settings())
    with run.claim():
        run.log(step=50, regression=1.5)
        run.save_checkpoint(50, {"model": net()}, {"regression": 2.0})
    return tmp_path / "run"


WRONG = (None, "x", -1, [], {}, 1.5, float("nan"), True, [[1]])


def test_checkpoints(run_folder):
    path = run_folder / "checkpoint.pt"
    original = path.read_bytes()
    held = read_checkpoint(path)

    def resume(_):
        Run(run_folder, Settings()).resume({"model": net()})

    for case in range(CASES["checkpoints"]):
        rng = np.random.default_rng(case)
        path.write_bytes(original)
        if case < 40:
            flipped(path, rng)
        elif case < 50:
            shortened(path, rng)
        else:
            fields = held._asdict()
            name = list(fields)[case % len(fields)]
            wrong = [one for one in WRONG if type(one) is not type(fields[name])]
            fields[name] = wrong[case % len(wrong)]
            if name == "state":
                fields[name] = {"model": {"weight": torch.zeros(case % 3, 2)}}
            if case % 7 == 6:
                del fields[name]
            save_sealed(path, fields)
        refused(resume, path)
    path.write_bytes(original)
    (run_folder / "config.json").unlink()
    with pytest.raises(
        InputError, match=r"holds a run with rate = 0\.1, the command asks for 0\.2"
    ):
        Run(run_folder, Settings(0.2)).resume({"model": net()})
    assert Run(run_folder, Settings()).resume({"model": net()}) == 50


@pytest.mark.long
def test_many_tensors_are_refused_in_time(tmp_path):
    header = {
        f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(150_000)
    }
    text = json.dumps(header).encode()
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
    assert "100,000 tensors" in refused(
        lambda p: read_tensors(p, "weights"), tmp_path / "a.safetensors"
    )
    save_sealed(tmp_path / "a.pt", [torch.zeros(0) for _ in range(100_001)])
    said = refused(lambda p: load_sealed(p, "a checkpoint", "again"), tmp_path / "a.pt")
    assert "tensors" in said


# ---- results and reports -------------------------------------------------------------------------
def test_sealed_json(run_folder, tmp_path):
    run = Run(run_folder, Settings())
    with run.claim():
        run.finish({"epe_mm": 21.5, "pck": [0.0, 0.5], "text": "å"})
    path = run_folder / "result.json"
    original, written = path.read_bytes(), read_result(path)
    for case in range(CASES["sealed JSON"]):
        rng = np.random.default_rng(case)
        path.write_bytes(original)
        if case == 0:
            path.write_text(path.read_text().replace("21.5", "12.5"))
        elif case == 1:
            path.write_text(json.dumps({"epe_mm": 1.0}))  # by hand, without a checksum
        elif case % 4 == 0:
            shortened(path, rng)
        else:
            flipped(path, rng)
        if case in (0, 1):
            refused(read_result, path)
        else:
            refused_or_same(read_result, path, written)
    path.write_bytes(original)
    (run_folder / "config.json").unlink()
    with pytest.raises(InputError, match=r"result.json: this folder holds a run with rate = 0\.1"):
        Run(run_folder, Settings(0.2))


HOSTILE = [
    None,
    "x",
    -1,
    1e400,
    float("nan"),
    [],
    {},
    [[]],
    True,
    "../../etc/passwd",
    "/etc/passwd",
    "a" * 1_000_000,
    "$\\frac{$",
    "<script>",
    "| a | b |",
    "\x1b[2J",
    {"a": {"b": {"c": []}}},
    10**300,
]


def places(value, path=()):
    """Every place in a JSON value, as keys."""
    if path:
        yield path
    if isinstance(value, (dict, list)):
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        for key, part in list(parts)[:40]:
            yield from places(part, (*path, key))


def put(value, path, new):
    *way, last = path
    for key in way:
        value = value[key]
    value[last] = new


REPORT_FILES = [
    "rows.json",
    "environment.json",
    "depth/result.json",
    "target/none/seed-0/result.json",
    "target/l2/tried.json",
    "target/mean-pose/result.json",
    "depth/prior_p2.json",
    "data/source/meta.json",
    "depth/metrics.jsonl",
]


@pytest.mark.long
def test_reports(whole, tmp_path):
    """Whatever a folder holds, its report is written or refused in a sentence, within it."""
    clean = collect_run(whole)
    seen = {True: 0, False: 0}
    for case in range(CASES["reports"]):
        rng = np.random.default_rng(case)
        path = whole / REPORT_FILES[case % len(REPORT_FILES)]
        original = path.read_bytes()
        is_lines = path.suffix == ".jsonl"
        text = original.splitlines()[0] if is_lines else original
        held = json.loads(text)
        has_checksum = held.pop("checksum", None) is not None
        every = list(places(held))
        put(held, every[int(rng.integers(len(every)))], HOSTILE[case % len(HOSTILE)])
        try:
            if has_checksum:
                write_sealed_json(path, held)
            else:
                path.write_text(json.dumps(held))
            said, table = answer(lambda: format_tables(collect_run(whole)))
            seen[bool(said)] += 1
            assert "\n" not in said
            assert len(said) < 1000
            assert said or (len(table) < 20_000 and "<script>" not in table)
        finally:
            path.write_bytes(original)
    assert seen[True] > 40, seen
    assert collect_run(whole) == clean


def test_hostile_logs_and_sessions(tmp_path):
    for line in ('{"step": "1"}', '{"step": 1, "a": []}', "[1}", '{"a": 1}', '{"step": 1.5}', "}"):
        (tmp_path / "metrics.jsonl").write_text(line + "\n")
        refused(read_log, tmp_path / "metrics.jsonl")
    (tmp_path / "metrics.jsonl").write_text('{"step": 50, "a": 1.0}\n{"step": 100, "a')
    assert read_log(tmp_path / "metrics.jsonl") == [{"step": 50, "a": 1.0}]
    for text in ("[]", "{}", '{"sessions": 1}', '{"sessions": [1]}'):
        (tmp_path / "environment.json").write_text(text)
        refused(read_sessions, tmp_path / "environment.json")


# ---- weights and priors --------------------------------------------------------------------------
def odd_priors(prior, path):
    """Priors with all checksums right, and something else wrong."""
    from cmkg.runtime.weight_files import write_tensors

    manifest = json.dumps({"format": "cmkg-prior/1"} | prior.manifest | {"p": 2})
    phi = {f"phi/{name}": tensor for name, tensor in prior.phi.items()}
    first = next(iter(phi))

    def with_facts(**facts):
        return phi, json.dumps(json.loads(manifest) | facts)

    yield from (
        with_facts(p=3),
        with_facts(p=True),
        with_facts(p="2"),
        with_facts(format=None),
        with_facts(strength="x"),
        with_facts(strength=float("inf")),
        with_facts(weights=[1]),
        with_facts(weights={"a": -1}),
        with_facts(granularity="atom"),
        with_facts(fingerprint=3),
        with_facts(select=[]),
        (phi, "[" * 100_000),
        (phi, "[]"),
        (phi, "nope"),
        ({}, manifest),
        ({"x": torch.zeros(2)}, manifest),
        (phi | {first: torch.full_like(phi[first], float("nan"))}, manifest),
        (phi | {first: torch.zeros(2, dtype=torch.int64)}, manifest),
        (phi | {"centre/other": torch.zeros(2)}, manifest),
        (phi | {first.replace("phi", "variance"): torch.zeros(1)}, manifest),
    )
    write_tensors(path, phi, {"manifest": manifest})


def test_weights_and_priors(tmp_path):
    from cmkg.prior.store import FORMAT
    from cmkg.runtime.weight_files import write_tensors

    weights, file = tmp_path / "net.safetensors", tmp_path / "prior.safetensors"
    save_weights(weights, net())
    prior = Prior.constant(net(), 0.5)
    prior.save(file)

    def load(path):
        one = net()
        load_weights(path, one)
        return one.state_dict()

    def load_prior(path):
        return Prior.load(path).phi

    count = 0
    for path, read in ((weights, load), (file, load_prior)):
        original, written = path.read_bytes(), read(path)
        for case in range(30):
            rng = np.random.default_rng(case)
            path.write_bytes(original)
            (shortened if case % 5 == 0 else flipped)(path, rng)
            refused_or_same(read, path, written)
            count += 1
        path.write_bytes(original)
    for tensors, manifest in odd_priors(prior, file):
        manifest = manifest.replace("cmkg-prior/1", FORMAT)
        write_tensors(file, tensors, {"manifest": manifest})
        refused(load_prior, file)
        count += 1
    assert count >= CASES["weights and priors"]
    broken = net()
    broken.weight.data[0, 0] = float("nan")
    save_weights(weights, broken)
    assert "'weight' holds a number that is not finite" in refused(load, weights)


# ---- pictures and labels -------------------------------------------------------------------------
def png_of(width, height, bits=8, colour=2):
    """A PNG whose header states a size; its body is a line of nothing."""

    def part(name, data):
        body = name + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    packed = zlib.compress(bytes(100_000))
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", head) + part(b"IDAT", packed) + part(b"IEND", b"")


def test_pictures(tmp_path):
    rgb = cv2.resize(np.random.default_rng(0).integers(0, 255, (9, 12, 3), np.uint8), (96, 64))
    jpeg, png = tmp_path / "a.jpg", tmp_path / "a.png"
    cv2.imwrite(str(jpeg), rgb)
    cv2.imwrite(str(png), rgb)
    count, noticed = 0, 0
    for path in (jpeg, png):
        original, written = path.read_bytes(), read_photograph(path)
        for case in range(30):
            rng = np.random.default_rng(case)
            path.write_bytes(original)
            (shortened if case % 3 == 0 else flipped)(path, rng)
            count += 1
            if path == png:
                refused_or_same(read_photograph, path, written)
                continue
            try:  # a JPEG has no checksum: what its decoder does not see nobody can see
                found = read_photograph(path)
                assert found.shape == written.shape
            except InputError:
                noticed += 1
        path.write_bytes(original)
    assert noticed > 12
    sizes = ((60_000, 60_000), (2**31 - 1, 1), (0, 5), (65_000, 1_100))
    for number, (width, height) in enumerate(sizes):
        for reader in (read_photograph, read_picture, read_depth, pictures.read_any_picture):
            (tmp_path / f"{number}.png").write_bytes(png_of(width, height))
            refused(reader, tmp_path / f"{number}.png")
            count += 1
    data = bytearray(jpeg.read_bytes())
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", 65_500, 65_500)
    (tmp_path / "large.jpg").write_bytes(bytes(data))
    for reader in (read_photograph, read_picture, read_depth, pictures.read_any_picture):
        refused(reader, tmp_path / "large.jpg")
        count += 1
    assert count >= CASES["pictures"]


def bomb(depth=60):
    value = []
    for _ in range(depth):
        value = [value, value]
    return value


def test_labels(tmp_path):
    count = 0
    mat, original = tmp_path / "a.mat", io.BytesIO()
    joints = np.random.default_rng(0).normal(size=(3, 21, 10))
    savemat(original, {"handPara": joints}, do_compression=True)
    for case in range(40):
        mat.write_bytes(original.getvalue())
        (shortened if case % 4 == 0 else flipped)(mat, np.random.default_rng(case))
        refused_or_same(lambda p: read_mat_field(p, "handPara", (3, 21, 10)), mat, joints)
        count += 1
    head = original.getvalue()[:128]
    packed = zlib.compress(bytes(400 << 20), 9)  # 400 kB that unpack to 400 MB
    mat.write_bytes(head + struct.pack("<II", 15, len(packed)) + packed)
    assert "larger than" in refused(lambda p: read_mat_field(p, "handPara", (3, 21, 10)), mat)
    count += 1
    for protocol in (2, 4, 5):
        for value in (bomb(), {0: {"xyz": bomb(24)}}, bomb(110)):
            (tmp_path / "a.pickle").write_bytes(pickle.dumps(value, protocol) if value else b"")
            refused(lambda p: read_pickle(p, "labels"), tmp_path / "a.pickle")
            count += 1
    for data in (
        b"\x80\x05\x96" + (2**36).to_bytes(8, "little") + b".",
        b"\x80\x02\x8b" + (2**31 - 1).to_bytes(4, "little") + b".",
        b"\x80\x04\x8d" + (2**40).to_bytes(8, "little") + b".",
    ):
        (tmp_path / "a.pickle").write_bytes(data)
        refused(lambda p: read_pickle(p, "labels"), tmp_path / "a.pickle")
        count += 1
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as file:
        header = b"\x93NUMPY\x01\x00v\x00{'descr': '|u1', 'fortran_order': False, 'shape': (%d,), }"
        file.writestr("x.npy", (header % (1 << 30)).ljust(127) + b"\n" + bytes(1 << 20))
    refused(lambda p: read_npz(p, "labels"), tmp_path / "a.npz")
    lists = "a: &a [x]\n" + "".join(f"b{i}: &b{i} [*a, *a]\n" for i in range(30))
    for text in (
        lists,
        "a: " + "[" * 10_000,
        "x" * (2 << 20),
        "!!python/object/apply:os.system ['x']",
    ):
        (tmp_path / "a.yml").write_text(text)
        refused(lambda p: read_yaml(p, "facts"), tmp_path / "a.yml")
        count += 1
    for text in ("[" * 100_000, "[1, 2", '{"a": 1e}', "\x00"):
        (tmp_path / "a.json").write_text(text)
        refused(lambda p: read_json_value(p, "labels"), tmp_path / "a.json")
        count += 1
    assert count >= CASES["labels"]


# ---- what is no file -----------------------------------------------------------------------------
READERS = {
    "picture.png": read_picture,
    "photograph.jpg": read_photograph,
    "any.jpg": pictures.read_any_picture,
    "depth.png": read_depth,
    "depth.npy": read_depth,
    "labels.npz": lambda p: read_npz(p, "labels"),
    "labels.mat": lambda p: read_mat_field(p, "a", (None,)),
    "labels.pickle": lambda p: read_pickle(p, "labels"),
    "labels.json": lambda p: read_json_value(p, "labels"),
    "meta.yml": lambda p: read_yaml(p, "facts"),
    "run.json": read_json,
    "result.json": read_result,
    "metrics.jsonl": read_log,
    "arrays.npz": read_arrays,
    "weights.safetensors": lambda p: load_weights(p, net()),
    "prior.safetensors": Prior.load,
    "checkpoint.pt": read_checkpoint,
}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_no_regular_files(tmp_path):
    """A pipe would wait for ever, /dev/zero has no end."""
    count = 0
    for name, read in READERS.items():
        path = tmp_path / name
        os.mkfifo(path)
        refused(read, path)
        path.unlink()
        path.symlink_to("/dev/zero")
        refused(read, path)
        path.unlink()
        path.mkdir()
        refused(read, path)
        count += 3
    assert count >= CASES["no regular files"]


def test_arrays_come_back_or_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    write_arrays(path, x=np.arange(200.0), y=np.ones((3, 4)))
    original, written = path.read_bytes(), read_arrays(path)
    for case in range(40):
        path.write_bytes(original)
        flipped(path, np.random.default_rng(case))
        refused_or_same(read_arrays, path, written)
