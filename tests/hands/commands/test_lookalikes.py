import numpy as np
import pytest

from cmkg.errors import InputError
from cmkg.hands.commands import lookalikes as draw_lookalikes
from cmkg.hands.commands.lookalikes import DrawLookAlikes
from tests.hands.runs import settings


@pytest.mark.long
def test_the_fit_lies_beside_the_set_and_serves_again(whole, tmp_path):
    config = settings(
        DrawLookAlikes,
        data=str(whole / "data/target"),
        out=str(tmp_path / "likes"),
        frames=(2, 6),
        count=3,
        workers=1,
    )
    assert len(draw_lookalikes.run(config)) == 3
    (path,) = tmp_path.glob("likes-fit-*.npz")  # of this target and these frames
    with np.load(path) as fit:
        assert len(fit["angles_deg"]) == 4
    before = path.stat().st_mtime_ns
    draw_lookalikes.run(settings(config, out=str(tmp_path / "likes")))
    assert path.stat().st_mtime_ns == before
    with pytest.raises(InputError, match="frames 2 to 99: expected a range inside"):
        draw_lookalikes.run(settings(config, frames=(2, 99), out=str(tmp_path / "other")))
    assert not list(tmp_path.glob("other*"))
