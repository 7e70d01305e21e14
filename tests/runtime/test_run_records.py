import json
import shutil
from dataclasses import dataclass

import pytest

from cmkg.errors import InputError
from cmkg.runtime.run import Run
from cmkg.runtime.run_records import expect_shape, read_log, read_own_settings, read_result


@dataclass(frozen=True)
class Settings:
    epochs: int = 1


@pytest.fixture
def finished(tmp_path):
    """The folder of a finished run, with one file beside its result."""
    run = Run(tmp_path / "home/run", Settings())
    with run.claim():
        (tmp_path / "home/run/predictions.json").write_text("[1]")
        run.finish({"epe_mm": 1.0})
    return tmp_path / "home/run"


def test_a_result_is_that_of_its_run_alone(finished):
    assert read_result(finished / "result.json", finished.parent)["epe_mm"] == 1.0
    assert read_own_settings(finished) == {"epochs": 1}
    elsewhere = finished.with_name("other")
    shutil.copytree(finished, elsewhere)
    with pytest.raises(InputError, match="holds what was written to .*home/run"):
        read_result(elsewhere / "result.json", elsewhere.parent)


def test_what_a_run_wrote_may_not_be_changed_or_gone(finished):
    (finished / "predictions.json").write_text("[2]")
    with pytest.raises(InputError, match="is not the file that this run wrote"):
        read_result(finished / "result.json")
    (finished / "predictions.json").unlink()
    with pytest.raises(InputError, match="this run wrote it, and it is gone"):
        read_result(finished / "result.json")


def test_settings_that_were_edited_are_refused(finished):
    (finished / "config.json").write_text(json.dumps({"epochs": 2}))
    with pytest.raises(InputError, match="says other settings than result.json"):
        read_own_settings(finished)


def test_a_half_written_line_of_a_log_is_left_out(tmp_path):
    log = tmp_path / "metrics.jsonl"
    log.write_text('{"step": 1, "a": 2.0}\n{"step": 2, "a"')
    assert read_log(log) == [{"step": 1, "a": 2.0}]
    log.write_text('{"step": 1, "a": "x"}\n')
    with pytest.raises(InputError, match="line 1: expected a step and numbers by name"):
        read_log(log)


def test_a_value_of_another_shape_is_named_by_its_field():
    assert expect_shape({"epochs": 3}, Settings, "config.json") == Settings(3)
    with pytest.raises(InputError, match="config.json: field 'epochs': .* found 'many'"):
        expect_shape({"epochs": "many"}, Settings, "config.json")
    with pytest.raises(InputError, match="expected the settings of Settings, found 'epocs'"):
        expect_shape({"epocs": 3}, Settings, "config.json")
