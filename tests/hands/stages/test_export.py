import pytest
import torch
from safetensors.torch import load_file

from cmkg.errors import InputError
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
