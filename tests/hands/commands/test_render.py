import pytest

from cmkg.errors import InputError
from cmkg.hands.commands import render
from tests.hands.runs import settings


def test_render_refuses_another_set(tmp_path):
    render.run(settings(render.Render, out=str(tmp_path / "s"), count=4, px=16, workers=1))
    with pytest.raises(InputError, match="count = 4, asked for is 5"):
        render.run(settings(render.Render, out=str(tmp_path / "s"), count=5, px=16, workers=1))
