import numpy as np
import pytest

from cmkg.hands.paper import paper_claims
from cmkg.hands.paper.paper_claims import HOLDS, NOT_RUN, ONE_SEED, REVERSED, UNDECIDED
from cmkg.hands.paper.presets import Paper
from cmkg.hands.paper.reproduce import describe_rows


def ours(*errors):
    """A row's results of seeds 0, 1, ..."""
    seeds = [f"seed-{number}" for number in range(len(errors))]
    return {"seeds": seeds, "epe_mm": {"values": list(errors)}}


@pytest.fixture
def presets():
    """All tables with one seed, whose errors are twice the paper's."""
    described = describe_rows(Paper())
    return {
        preset: [
            {"stage": stage, "paper_epe_mm": epe, "ours": ours(2 * epe)}
            for stage, (_, epe, _) in described[preset].items()
        ]
        for preset in ("table1", "table2", "table3")
    }


def test_what_the_text_claims_is_computed_from_the_tables(presets):
    claims = {c["claim"]: c for c in paper_claims.collect_claims(presets)}
    distilled = claims["ResNet-18: distilled against RGB"]
    assert distilled["paper"] == pytest.approx(100 * (22.19 / 24.68 - 1))
    assert distilled["ours"]["mean"] == pytest.approx(distilled["paper"])
    assert distilled["verdict"] == ONE_SEED
    correlation = claims[paper_claims.CORRELATION]
    gains = [[0.09, 0.10], [0.47, 0.67], [0.88, 1.54], [1.02, 2.00], [3.65, 7.49]]
    assert correlation["paper"] == pytest.approx(np.corrcoef(np.array(gains).T)[0, 1])
    assert correlation["paper"] == pytest.approx(0.999, abs=5e-4)
    assert all(claim["paper"] < 0 for claim in claims.values() if claim is not correlation)


def test_a_gain_is_over_the_seeds_that_both_rows_have(presets):
    rows = {row["stage"]: row for row in presets["table1"]}

    def distilled(reference, better):
        rows["r18/continued"]["ours"], rows["r18/act-att"]["ours"] = reference, better
        claims = {c["claim"]: c for c in paper_claims.collect_claims(presets)}
        return claims["ResNet-18: distilled against RGB"]

    both = distilled(ours(50, 40, 99), ours(45, 38))
    assert both["ours"] == pytest.approx({"mean": -7.5, "low": -10, "high": -5, "seeds": 2})
    assert paper_claims.format_ours(both) == "−7.5 % [−10.0, −5.0]"
    assert both["verdict"] == HOLDS
    assert distilled(ours(50, 40), ours(55, 41))["verdict"] == REVERSED
    assert distilled(ours(50, 40), ours(55, 39))["verdict"] == UNDECIDED
    none = distilled(None, ours(45))
    assert (none["ours"], none["verdict"]) == (None, NOT_RUN)
    presets["table3"][0]["ours"] = None
    assert paper_claims.collect_claims(presets)[-1]["ours"] is None
