"""The paper's tables on open data, as the documents show them."""

import importlib.util
from pathlib import Path

import pytest

from cmkg.hands.paper.paper_claims import collect_claims
from cmkg.hands.paper.presets import Paper
from cmkg.hands.paper.reproduce import describe_rows
from cmkg.hands.report.collect import spread

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tool():
    path = ROOT / "tools/fill_documents.py"
    spec = importlib.util.spec_from_file_location("fill_documents", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def made_run(seeds, *missing):
    """paper.json of a run whose errors are twice the paper's and a tenth a seed more."""
    presets = {}
    described = describe_rows(Paper())
    for preset in ("table1", "table2", "table3"):
        presets[preset] = []
        for stage, (label, epe, auc) in described[preset].items():
            ours = None
            if stage.split("/")[0] not in missing:
                ours = {"seeds": [f"seed-{s}" for s in range(seeds)]}
                ours["epe_mm"] = spread([2 * epe + 0.1 * s for s in range(seeds)])
            row = {"stage": stage, "label": label, "paper_epe_mm": epe, "paper_auc": auc}
            presets[preset].append(row | {"ours": ours})
    found = {"presets": presets, "claims": collect_claims(presets), "sets": {"rhd-training": 9}}
    return found | {"command": "cmkg run table1", "commits": ["abc"], "machines": ["a CPU"]}


def test_runs_stand_beside_each_other_and_beside_the_paper(tool):
    runs = {"two cores": made_run(3), "a GPU": made_run(2, "r50-a", "freihand-gs")}
    block = tool.paper_block(runs)
    assert "two cores: `cmkg run table1`, commit abc, a CPU; samples: rhd-training 9." in block
    assert "| ResNet-18, RGB, both halves | 24.68 | 49.5 ± 0.1 | 49.4 ± 0.1 (2 seeds) |" in block
    assert "| ResNet-50 with 𝒜, depth | 10.78 | 21.7 ± 0.1 | – |" in block
    (line,) = (line for line in block.splitlines() if "ResNet-18: distilled against" in line)
    assert "| −10.1 % | −10.1 % [−10.1, −10.0]: holds | −10.1 % [" in line
    small = tool.small_paper_block(runs)
    assert "| taught by depth, L_ACT | 23.4 | 46.9 ± 0.1 | 46.9 ± 0.1 (2 seeds) |" in small
    assert "| stb | 15.7 / 12.0 / 8.2 | 31.4 ± 0.1 | 24.1 ± 0.1 | 16.5 ± 0.1 |" in small
    text = "<!-- =paper-open:two cores/r18/act-att share r18/continued -->?<!-- / -->"
    text = text.replace("two cores", "CPU")
    filled = tool.sentences(text, {"paper-open": {"CPU": made_run(3)}})
    assert ">−10 %<" in filled


def test_what_is_not_in_the_results_is_a_sentence(tool):
    with pytest.raises(SystemExit, match="docs/results has no such row"):
        tool.sentences("<!-- =none/correlation -->1<!-- / -->", {})


def test_two_parts_of_a_study_are_one_and_pairs_share_their_seeds(tool):
    def part(seeds, machine, **rows):
        rows = [
            {"name": name, "label": name, "epe_mm": spread(values)} for name, values in rows.items()
        ]
        settings = {"seeds": seeds}
        cells = [{"target": "rendered", "rows": rows}]
        held = {"cells": cells, "settings": settings, "commits": ["abc"]}
        return held | {"machine": {"gpu": machine, "cores": 2}}

    first = part([0, 1, 2], "a GPU", plain=[30.0, 31.0, 32.0], old=[1.0, 2.0, 3.0])
    more = part([3, 4], None, plain=[40.0, 41.0], new=[38.0, 37.0])
    whole = tool.join_seeds(first, more)
    block = tool.cells_block(whole)
    assert "Commit abc, a GPU, seeds 0, 1, 2; commit abc, 2 cores, seeds 3, 4." in block
    assert "| plain | 34.8 ± 5.3 |" in block
    assert "| old | 2.0 ± 1.0 (3) |" in block
    assert "| new | 37.5 ± 0.7 (2) |" in block
    text = "<!-- =worth:rendered/new vs plain -->?<!-- / -->"
    assert ">−3.0 (2 seeds)<" in tool.sentences(text, {"worth": whole})
