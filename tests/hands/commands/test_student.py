import pytest

from cmkg.errors import InputError
from cmkg.hands.commands import student as source
from cmkg.hands.commands import teacher
from cmkg.hands.experiments import demo_settings
from tests.hands.runs import NET, SMALL, common, says, settings, stage_commands


def test_another_setting_in_the_same_folder_is_refused(whole):
    with pytest.raises(
        InputError,
        match=r"config.json: this folder holds a run with epochs = 1, the command asks for 2",
    ):
        source.run(
            settings(
                teacher.SETTINGS,
                **common(whole)
                | NET
                | SMALL
                | {
                    "labels": 16,
                    "epochs": 2,
                    "out": str(whole / "teacher"),
                    "lr": 1e-3,
                    "schedule": "cosine",
                    "augmentation": demo_settings.SOURCE_AUGMENTATION,
                },
            )
        )


def test_a_loss_that_is_not_finite_ends_in_a_sentence(whole, tmp_path):
    command = stage_commands(whole, tmp_path)["student"]
    assert "expected a finite number" in says([*command, "--lr", "1e30"], code=1)
    assert not (tmp_path / "run/student.safetensors").exists()
