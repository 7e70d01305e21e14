import pytest

from cmkg.hands.network.posenet import NetConfig
from cmkg.hands.paper.step_costs import StepKind, seconds_per_step

NET = NetConfig(backbone="resnet10", width=0.125, px=32)


@pytest.mark.parametrize("kind", ["teacher", "meta"])
def test_every_kind_of_step_is_taken(kind):
    assert 0 < seconds_per_step(StepKind(kind, NET, 2, "32-true"), steps=1) < 60
