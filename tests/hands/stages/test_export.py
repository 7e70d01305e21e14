import json

import pytest
import torch
from safetensors.torch import load_file

from cmkg.errors import InputError
from cmkg.hands.network.hand_student import load_student
from cmkg.hands.stages import export


def test_students_and_priors_have_cards_and_are_given_away(whole, tmp_path):
    for folder in ("student", "depth", "target/none/seed-0"):
        card = (whole / folder / "README.md").read_text()
        assert "library_name: cmkg" in card, folder
        assert "| EPE, mm |" in card, folder
    assert "| fingerprint |" in (whole / "depth/prior_p2.md").read_text()
    export.run(
        export.Export(
            str(whole / "target/none/seed-0"), str(whole / "student"), str(tmp_path / "hub")
        )
    )
    from cmkg.hands.network.hand_student import HandStudent

    given = HandStudent.from_pretrained(tmp_path / "hub")
    trained = load_file(whole / "target/none/seed-0/target.safetensors")
    assert all(torch.equal(t, trained[n]) for n, t in given.net.state_dict().items())
    with pytest.raises(InputError, match="expected a finished stage"):
        export.run(
            export.Export(str(whole / "data"), str(whole / "student"), str(tmp_path / "other"))
        )


def test_what_is_given_away_shows_a_changed_bit_and_holds_one_network(whole, tmp_path):
    out = tmp_path / "given"
    out.mkdir()
    (out / "finder.onnx").write_bytes(b"of an earlier export")
    export.run(export.Export(f"{whole}/student", f"{whole}/student", str(out)))
    assert not (out / "finder.onnx").exists()
    load_student(out)
    data = bytearray((out / "model.safetensors").read_bytes())
    data[-100] ^= 1
    (out / "model.safetensors").write_bytes(bytes(data))
    with pytest.raises(InputError, match=r"numbers are not those that were written \(checksum\)"):
        load_student(out)
    settings = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps(settings | {"bone_mm": float("nan")}))
    with pytest.raises(InputError, match="expected a bone's length in mm"):
        load_student(out)
