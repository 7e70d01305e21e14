import json

import pytest

from cmkg.hands.report import collect


def test_the_spread_is_the_sample_standard_deviation():
    found = collect.spread([1.0, 2.0, 4.0])
    assert found["mean"] == pytest.approx(7 / 3)
    assert found["sd"] == pytest.approx(1.5275, abs=1e-4)  # n - 1
    assert collect.format_spread(found) == "2.33 ± 1.53"
    assert collect.format_spread(collect.spread([1.0])) == "1.00"


def test_a_strength_at_the_edge_has_a_star():
    for at_the_edge, said in ((True, "10*"), (False, "10")):
        row = {"tried": {"chosen": 10.0, "at_the_edge": at_the_edge}}
        assert collect.format_strength(row) == said
    assert collect.format_strength({"tried": None}) == ""


def test_a_page_names_no_folder_of_the_user():
    settings = {"out": "/home/me/it's runs/demo", "root": "hands"}
    sessions = [{"command": "cmkg run demo --out '/home/me/it'\"'\"'s runs/demo'"}]
    collect.hide_folders(settings, sessions)
    assert settings == {"out": "demo", "root": "hands"}
    several = {"backgrounds": ["/data/coco", "walls"]}
    collect.hide_folders(several, [])
    assert several == {"backgrounds": ["coco", "walls"]}
    assert sessions[0]["command"] == "cmkg run demo --out 'demo'"


def test_shares_are_those_of_the_last_tenth(tmp_path):
    late = {"step": 50, "regression": 1.0, "activation": 1.0, "attention": 2.0}
    lines = [{**late, "regression": 100.0}] * 18 + [late] * 2
    path = tmp_path / "metrics.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines))
    assert collect.loss_shares(path) == {"regression": 0.25, "activation": 0.25, "attention": 0.5}


def test_a_tuned_row_is_read_below_its_strength(whole):
    tuned, plain = (collect.row_folder(whole, name) for name in ("l2", "none"))
    chosen = json.loads((whole / "target/l2/tried.json").read_text())["chosen"]
    assert tuned == whole / f"target/l2/sigma-{chosen:g}"
    assert plain == whole / "target/none"
    found = collect.collect_row(whole, {"name": "l2", "label": "l2"})
    results = [json.loads((tuned / f"seed-{s}/result.json").read_text()) for s in (0,)]
    assert found["epe_mm"]["values"] == [result["epe_mm"] for result in results]
