import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cmkg.errors import InputError
from cmkg.hands.commands import export_student as export
from cmkg.hands.export.onnx_backend import OnnxFile
from cmkg.hands.export.onnx_writer import write_onnx
from cmkg.hands.files.exports import write_manifest
from cmkg.hands.network.hand_student import HandStudent, load_student
from cmkg.runtime.locks import hold_folder


def test_students_and_priors_have_cards_and_are_given_away(whole, tmp_path):
    for folder in ("student", "depth", "target/none/seed-0"):
        card = (whole / folder / "README.md").read_text()
        assert "library_name: cmkg" in card, folder
        assert "| EPE, mm |" in card, folder
    assert "| fingerprint |" in (whole / "depth/prior_p2.md").read_text()
    export.run(
        export.ExportStudent(
            str(whole / "target/none/seed-0"), str(whole / "student"), str(tmp_path / "hub")
        )
    )
    given = HandStudent.from_pretrained(tmp_path / "hub")
    trained = load_file(whole / "target/none/seed-0/target.safetensors")
    assert all(torch.equal(t, trained[n]) for n, t in given.net.state_dict().items())
    with pytest.raises(InputError, match="expected a finished stage"):
        export.run(
            export.ExportStudent(
                str(whole / "data"), str(whole / "student"), str(tmp_path / "other")
            )
        )


def test_what_is_given_away_shows_a_changed_bit_and_holds_one_network(whole, tmp_path):
    out = tmp_path / "given"
    export.run(export.ExportStudent(f"{whole}/student", f"{whole}/student", str(out)))
    load_student(out)
    data = bytearray((out / "model.safetensors").read_bytes())
    data[-100] ^= 1
    (out / "model.safetensors").write_bytes(bytes(data))
    with pytest.raises(InputError, match=r"model.safetensors: its checksum is not the one"):
        load_student(out)
    write_manifest(out)  # by somebody who lists what is damaged
    with pytest.raises(InputError, match=r"numbers are not those that were written \(checksum\)"):
        load_student(out)
    settings = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps(settings | {"bone_mm": float("nan")}))
    write_manifest(out)
    with pytest.raises(InputError, match="expected a bone's length in mm"):
        load_student(out)


def test_an_export_is_refused_where_it_would_destroy_or_mix(whole, tmp_path):
    student = f"{whole}/student"
    for out in (student, f"{student}/hub", str(whole)):
        with pytest.raises(InputError, match="in what this command reads"):
            export.run(export.ExportStudent(student, student, out))
    (tmp_path / "README.md").write_text("mine")
    (tmp_path / "thesis.txt").write_text("all of it")
    with pytest.raises(InputError, match="holds something else"):
        export.run(export.ExportStudent(student, student, str(tmp_path)))
    assert (tmp_path / "README.md").read_text() == "mine"
    out = tmp_path / "out"
    with hold_folder(out), pytest.raises(InputError, match="works on this folder"):
        export.run(export.ExportStudent(student, student, str(out)))


def test_files_of_other_exports_are_not_taken(tmp_path):
    """What a partial copy leaves, and what somebody edits: each is a sentence."""
    for name, more in (("one", 0.0), ("two", 0.1)):
        student = HandStudent("resnet10", 0.125, "integral", 2, 32)
        with torch.no_grad():
            next(student.parameters()).add_(more)
        student.save_pretrained(tmp_path / name)
        write_onnx(student, tmp_path / name / "student.onnx")
        write_manifest(tmp_path / name)
        load_student(tmp_path / name)
    one = tmp_path / "one"

    def refused(match):
        with pytest.raises(InputError, match=match):
            load_student(copied)

    for number in range(7):
        copied = tmp_path / f"copy{number}"
        shutil.copytree(one, copied)
        network = copied / "student.onnx"
        if number == 0:
            data = bytearray(network.read_bytes())
            data[len(data) // 2] ^= 1
            network.write_bytes(bytes(data))
            refused("student.onnx: its checksum is not the one")
        elif number == 1:
            shutil.copy(tmp_path / "two/student.onnx", network)
            refused("student.onnx: its checksum is not the one")
        elif number == 2:
            network.unlink()
            refused("student.onnx: no such file")
        elif number == 3:
            settings = json.loads((copied / "config.json").read_text())
            (copied / "config.json").write_text(json.dumps(settings | {"bone_mm": 40.0}))
            refused("config.json: its checksum is not the one")
        elif number == 4:
            (copied / "manifest.json").unlink()
            refused("found no manifest.json")
        elif number == 5:
            (copied / "hand.json").write_bytes(b"")
            refused("hand.json: was not exported with its folder")
        else:
            network.unlink()
            network.symlink_to(one / "student.onnx")
            refused("is a link out of its folder")


def test_operations_that_no_exported_network_has_are_refused(tmp_path):
    (tmp_path / "loop.onnx").write_bytes(with_operation("Loop"))
    with pytest.raises(InputError, match="has the operation 'Loop'"):
        OnnxFile(tmp_path / "loop.onnx")
    student = HandStudent("resnet10", 0.125, "integral", 2, 32)
    write_onnx(student, tmp_path / "student.onnx")
    with pytest.raises(InputError, match="says bone_mm = '32', its folder's settings '40'"):
        OnnxFile(tmp_path / "student.onnx").expect_facts({"bone_mm": "40"})


def with_operation(kind):
    """An ONNX model of one operation, written by hand: no loop is made by any tool of ours."""

    def field(number, data):
        return bytes([number << 3 | 2, len(data)]) + data

    return field(7, field(1, field(4, kind.encode())))


def test_outputs_that_are_no_numbers_are_a_sentence(tmp_path):
    student = HandStudent("resnet10", 0.125, "integral", 2, 32)
    with torch.no_grad():
        next(student.parameters()).fill_(float("nan"))
    write_onnx(student, tmp_path / "nan.onnx")
    with pytest.raises(InputError, match="has a number that is not finite"):
        OnnxFile(tmp_path / "nan.onnx")(np.zeros((1, 3, 32, 32), np.float32))
    with pytest.raises(InputError, match="does not take pictures of shape"):
        OnnxFile(tmp_path / "nan.onnx")(np.zeros((1, 3, 40, 32), np.float32))
    with pytest.raises(InputError, match="the outputs chance"):
        OnnxFile(tmp_path / "nan.onnx", ("chance",))


def test_another_model_is_not_replaced_and_a_failed_export_leaves_the_earlier_one(whole, tmp_path):
    student, out = f"{whole}/student", tmp_path / "out"
    model = tmp_path / "bert"
    model.mkdir()
    for name in ("config.json", "model.safetensors", "README.md"):
        (model / name).write_text("mine")
    with pytest.raises(InputError, match="holds something else"):
        export.run(export.ExportStudent(student, student, str(model)))
    assert (model / "config.json").read_text() == "mine"
    export.run(export.ExportStudent(student, student, str(out), onnx=True))
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(InputError, match="expected a finished stage"):
        export.run(export.ExportStudent(f"{tmp_path}/none", student, str(out)))
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    export.run(export.ExportStudent(student, student, str(out)))
    assert not (out / "student.onnx").exists()  # of the earlier one
    load_student(out)
    assert not list(tmp_path.glob("*.partial"))
