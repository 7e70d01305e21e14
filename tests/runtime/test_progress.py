import time

from cmkg.runtime import progress
from cmkg.runtime.progress import Bar, Overall, format_duration


def test_durations_as_a_person_says_them():
    assert [format_duration(s) for s in (0.4, 89, 90, 5399, 5400)] == [
        "0 s",
        "89 s",
        "1.5 min",
        "90.0 min",
        "1.5 h",
    ]


def test_a_log_gets_plain_lines_with_rate_and_time_left(capsys, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    with Bar("rgb student", 100, first=20, per_step=8) as advance:
        for _ in range(40):
            clock[0] += 0.5
            advance()
    lines = capsys.readouterr().err.splitlines()
    # Two steps a second of eight pictures; what an earlier session did counts in no rate.
    assert lines == ["rgb student: 41/100  16 images/s  30 s left"]


def test_a_bar_that_is_not_shown_says_nothing(capsys, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    with Bar("quiet", 2, shown=False) as advance:
        advance()
        advance()
    assert capsys.readouterr().err == ""


def test_the_time_left_for_the_whole_follows_the_work_that_is_done(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    overall = Overall({"teacher": 100.0, "student": 100.0, "row": 300.0})
    assert overall.time_left() == ""
    clock[0] = 60.0
    overall.finish("teacher")
    assert overall.time_left() == ", about 4.0 min left for the whole run"
    overall.finish("student")
    overall.finish("row")
    assert overall.time_left() == ""
