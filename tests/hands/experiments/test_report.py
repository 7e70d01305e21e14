import pytest

from cmkg.errors import InputError
from cmkg.hands.experiments.report import WriteReport, run


def test_a_finished_run_gets_its_page_anew(whole):
    page = whole / "report.html"
    before = page.read_bytes()
    page.unlink()
    run(WriteReport(str(whole)))
    assert page.read_bytes() == before
    with pytest.raises(InputError, match="expected the folder of a `cmkg run`"):
        run(WriteReport(str(whole / "data")))
