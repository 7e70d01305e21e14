"""Puts what docs/results/*.json holds into README.md and the pages of docs/ that have its markers:
tables between them, numbers inside sentences; and draws the study's charts.

cp runs/demo/results.json docs/results/demo.json && python tools/update_readme.py

In a sentence <!-- =FILE/ROW --> … <!-- / --> is a row's mean and spread in mm, `=FILE/ROW mean`
the mean, `=FILE/ROW vs REF` its difference to another row with the interval, `=FILE/ROW share
REF` that in per cent; FILE is FILE:CELL where there are several. `=FILE/correlation` is that of
what ℓ² gains over the cells and what the prior gains.

docs/results/before holds the results of commands that are no more: for sentences alone.

paper-open.json holds the runs of the paper's tables on open data: {name: paper.json of the run, and
its "command"}.
"""

import json
import re
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # for the studies, which are not installed
from studies.chart import draw_errors, draw_labels  # noqa: E402
from studies.units import format_units  # noqa: E402

from cmkg.hands.paper.paper_claims import correlate_gains, errors_by_seed, format_gain, format_ours
from cmkg.hands.paper.paper_page import CLAIMS, EXPLAIN_CLAIMS, TABLES, TITLES
from cmkg.hands.paper.presets import TABLE_3_EPE_MM, TABLE_3_ROWS  # noqa: E402
from cmkg.hands.report.collect import format_spread, spread  # noqa: E402
from cmkg.hands.report.run_page import format_tables  # noqa: E402
from studies import tables  # noqa: E402


def filled(text, name, block):
    """`text` with what stands between the markers of `name` replaced by block; None where there
    are none."""
    new, found = re.subn(
        f"<!-- {name} -->.*?<!-- /{name} -->",
        lambda _: f"<!-- {name} -->\n{block}<!-- /{name} -->",
        text,
        flags=re.DOTALL,
    )
    return new if found else None


def run_block(results):
    sessions, machine = results["sessions"], results["sessions"][-1]["machine"]
    commits = ", ".join(dict.fromkeys(s["commit"] for s in sessions))
    minutes = sum(results["seconds"].values()) / 60
    facts = (
        f"`{sessions[-1]['command']}`, commit {commits}, {machine['cores']} cores, "
        f"{minutes:.0f} min of training and tuning."
    )
    return f"{facts}\n\n{format_tables(results)}"


def cells_block(results):
    """A study of several cells: what ran where, and its table."""
    parts = results.get("parts", [results])
    ran = []
    for part in parts:
        machine, seeds = part["machine"], part["settings"]["seeds"]
        where = machine["gpu"] or f"{machine['cores']} cores"
        which = f"seeds {', '.join(map(str, seeds))}" if len(parts) > 1 else f"{len(seeds)} seed"
        plural = "s" * (len(parts) == 1 and len(seeds) > 1)
        ran.append(f"commit {', '.join(part['commits'])}, {where}, {which}{plural}")
    facts = "; ".join(ran)
    return f"{facts[0].upper()}{facts[1:]}.\n\n{tables.format_cells(results)}"


def joined(first, more):
    """One result of two parts of a study, of other seeds each: rows with the values of both."""
    cells = []
    for cell in first["cells"]:
        others = next((c["rows"] for c in more["cells"] if c["target"] == cell["target"]), [])
        beside = {row["name"]: row for row in others}
        rows = []
        for row in [*cell["rows"], *others]:
            if any(row["name"] == known["name"] for known in rows):
                continue
            own, seeds = row["epe_mm"]["values"], (first if row in cell["rows"] else more)
            seeds = list(seeds["settings"]["seeds"])
            if row in cell["rows"] and row["name"] in beside:
                own = own + beside[row["name"]]["epe_mm"]["values"]
                seeds += more["settings"]["seeds"]
            facts = {key: row[key] for key in ("name", "label")}
            rows.append(facts | {"epe_mm": spread(own), "seeds": seeds})
        cells.append(cell | {"rows": rows})
    return first | {"cells": cells, "parts": [first, more]}


def shared_values(row, other):
    """The errors of two rows over the seeds that both have, in one order."""
    if "seeds" not in row:
        return row["epe_mm"]["values"], other["epe_mm"]["values"]
    both = [dict(zip(one["seeds"], one["epe_mm"]["values"], strict=True)) for one in (row, other)]
    seeds = [seed for seed in row["seeds"] if seed in both[1]]
    return [[errors[seed] for seed in seeds] for errors in both]


def format_number(results, file, row, what, reference):
    """The text of one number in a sentence; see above. Raises SystemExit where the results do
    not have it."""
    stem, _, cell = file.partition(":")
    try:
        if row == "correlation":
            return f"{gains_correlation(results[stem]):.2f}"
        held = results[stem]
        if stem == PAPER:
            errors = errors_of_shared_seeds(held[cell], [row, reference] if reference else [row])
            rows = {name: {"epe_mm": one} for name, one in errors.items()}
        else:
            held = next(c for c in held["cells"] if c["target"] == cell) if cell else held
            rows = {r["name"]: r for r in held["rows"]}
        error = rows[row]["epe_mm"]
        other = shared_values(rows[row], rows[reference]) if reference else None
    except (KeyError, StopIteration) as missing:
        raise SystemExit(
            f"<!-- ={file}/{row} {what} {reference} -->: docs/results has no such row ({missing})"
        ) from None
    if other:
        d = tables.difference(*map(np.array, other))
        text = f"{100 * d['share']:+.0f} %"
        if what == "vs" and d["interval"] is None:
            text = f"{d['mean']:+.1f} ({d['seeds']} seeds)"
        elif what == "vs":
            low, high = d["interval"]
            digits = 1 if max(-low, high) >= 0.5 else 2
            text = f"{d['mean']:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"
        return text.replace("-", "−")
    return (
        f"{error['mean']:.1f}"
        if what == "mean" or error["sd"] is None
        else f"{error['mean']:.1f} ± {error['sd']:.1f}"
    )


def gains_correlation(results):
    """Over the cells: of what tuned ℓ² gains on no regulariser, and what the prior does."""
    errors = []
    for cell in results["cells"]:
        mean = {row["name"]: row["epe_mm"]["mean"] for row in cell["rows"]}
        errors.append([mean["none"], mean["l2"], mean["prior-p2"]])
    return correlate_gains(np.array(errors))


IN_A_SENTENCE = re.compile(
    r"(<!-- =([^\s/]+)/(\S+)(?: (mean|vs|share)(?: (\S+))?)? -->).*?<!-- / -->", re.DOTALL
)


def sentences(text, results):
    """`text` with every number of a sentence anew."""
    return IN_A_SENTENCE.sub(
        lambda m: f"{m[1]}{format_number(results, m[2], m[3], m[4] or '', m[5] or '')}<!-- / -->",
        text,
    )


# ---- the paper's tables on open data -------------------------------------------------------------
PAPER = "paper-open"
MORE_SEEDS = "-more-seeds"  # ends the name of a result's second file


def rows_run(run):
    """{stage: row} of a run's rows that have results, of all tables."""
    rows = (row for preset in TABLES for row in run["presets"][preset])
    return {row["stage"]: row for row in rows if row["ours"]}


def errors_of_shared_seeds(run, stages):
    """{stage: EPE} over the seeds that all of them have."""
    rows = rows_run(run)
    values = errors_by_seed([rows[stage] for stage in stages]).tolist()
    return {stage: spread(one) for stage, one in zip(stages, values, strict=True)}


def error_of(run, stage):
    """As "30.9 ± 0.3", with the number of seeds unless it is three; a dash where there is none."""
    row = rows_run(run).get(stage)
    if row is None:
        return "–"
    seeds = len(row["ours"]["seeds"])
    few = "" if seeds == 3 else f" ({seeds} seed{'s' * (seeds > 1)})"
    return format_spread(row["ours"]["epe_mm"], 1) + few


def table_of(columns, lines):
    """A Markdown table's lines: the first column left, the others right."""
    rule = [":--", *["--:"] * (len(columns) - 1)]
    return ["| " + " | ".join(cells) + " |" for cells in [columns, rule, *lines]]


def paper_block(runs):
    """All rows of the three tables, and whether their order holds, run beside run."""
    lines = []
    for name, run in runs.items():
        trained = {k: n for k, n in run["sets"].items() if not k.endswith(("test", "evaluation"))}
        sets = ", ".join(f"{name} {count}" for name, count in trained.items())
        facts = (
            f"`{run['command']}`, commit {', '.join(run['commits'])}, {', '.join(run['machines'])}"
        )
        lines += [f"{name}: {facts}; samples: {sets}.", ""]
    first = next(iter(runs.values()))
    for preset in TABLES:
        lines += [f"**{TITLES[preset]}** (EPE, mm; three seeds where not said)", ""]
        body = []
        for row in first["presets"][preset]:
            label = row["label"].split(", ")
            title = ", ".join(part for part in label if not part.endswith(" epochs"))
            half = {"student": ", first half", "continued": ", both halves"}
            title += half.get(row["stage"].split("/")[1], "")
            ours = [error_of(run, row["stage"]) for run in runs.values()]
            paper = "–" if row["paper_epe_mm"] is None else f"{row['paper_epe_mm']:.2f}"
            body.append([title, paper, *ours])
        lines += [*table_of(["row", "the paper", *runs], body), ""]
    lines += [f"**{CLAIMS}** {EXPLAIN_CLAIMS}", ""]
    body = []
    for number, claim in enumerate(first["claims"]):
        ours = []
        for run in runs.values():
            own = run["claims"][number]
            said = f": {own['verdict']}" if own["verdict"] else ""
            ours.append("–" if own["ours"] is None else format_ours(own) + said)
        body.append([claim["claim"], format_gain(claim["paper"], claim["unit"]), *ours])
    return "\n".join([*lines, *table_of(["against", "the paper", *runs], body), ""])


def small_paper_block(runs):
    """The three tables in their shortest form; Table 3 as a matrix, of the first run."""

    def small(preset, chosen):
        paper = {row["stage"]: row["paper_epe_mm"] for row in first["presets"][preset]}
        return [
            [label, f"{paper[stage]:.1f}", *(error_of(run, stage) for run in runs.values())]
            for stage, label in chosen.items()
        ]

    first = next(iter(runs.values()))
    table_1 = {
        "r18/continued": "ResNet-18, RGB",
        "r18/act": "taught by depth, L_ACT",
        "r18/act-att": "taught by depth, L_ACT + λ L_ATT",
        "r18-a/act-att": "… with 𝒜",
        "r50-a/act-att": "… ResNet-50",
        "r18/teacher": "depth itself",
    }
    table_2 = {
        "stb/none": "no regulariser",
        "stb/l1-1e-4": "ℓ¹, σ = 1e-4",
        "stb/l2-1e-5": "ℓ², σ = 1e-5 (the paper's best)",
        "stb/l2-1e-3": "ℓ², σ = 1e-3 (our best)",
        "stb/prior-l1": "learned prior, p = 1",
        "stb/prior-l2": "learned prior, p = 2",
    }
    columns = ["the paper", *runs]
    lines = table_of(["Table 1, source", *columns], small("table1", table_1)) + [""]
    lines += table_of(["Table 2, target", *columns], small("table2", table_2)) + [""]
    name, body = next(iter(runs)), []
    for data, paper in TABLE_3_EPE_MM.items():
        ours = [error_of(first, f"{data}/{row}") for row, _ in TABLE_3_ROWS]
        body.append([data, " / ".join(f"{one:.1f}" for one in paper), *ours])
    head = ["Table 3, targets", "the paper: none / ℓ² / prior"]
    head += [f"{name}: {label}" for label in ("none", "ℓ²", "prior")]
    return "\n".join([*lines, *table_of(head, body), ""])


# Rows of docs/worth.svg, in its order: depth's worth, then what carries it from theta_0.
ON_CHART = (
    "untouched-student",
    "untouched-rgb",
    "untouched-depth",
    "untouched-all",
    "tuned-student",
    "tuned-rgb",
    "tuned-depth",
    "tuned-all",
    "none",
    "l2",
    "adam",
    "adam-permuted",
    "adam-no-teacher",
    "centred",
    "centred-permuted",
    "centred-labels",
)


def blocks_of(name, held):
    """{marker: what stands between its markers} of a result."""
    if name == PAPER:
        return {PAPER: paper_block(held), f"{PAPER}-small": small_paper_block(held)}
    if name == "worth":
        front = {f"{name}-front": front_worth_block(held)}
        return {name: cells_block(held), f"{name}-small": small_worth_block(held)} | front
    if name == "photographs":
        return {
            name: photographs_block(held),
            f"{name}-fifths": fifths_block(held),
            f"{name}-shares": shares_block(held),
            f"{name}-front": front_photographs_block(held),
        }
    if name == "adapting":
        return {
            name: adapting_rows_block(held),
            f"{name}-curve": adapting_curve_block(held),
            f"{name}-kinds": adapting_kinds_block(held),
        }
    if name == "recordings":
        return {name: recordings_block(held)}
    if name == "weights":
        return {name: weights_block(held)}
    return {name: block_of(name, held)}


HEADS_OF_ERRORS = ["mm", "best scale", "Procrustes", "on the picture", "found", "side"]


def errors_of_method(row, count):
    """Cells of a method: errors, and shares of the hands."""
    seen = row["photographs"]
    errors = [
        f"{row['mm'][name]['all']:.1f}" if name in row["mm"] else "–"
        for name in ("mm", "best scale", "Procrustes")
    ]
    shares = [f"{seen[name]} of {count}" for name in ("found", "side")]
    return [*errors, f"{seen['px_percent']:.1f} %", *shares]


def photographs_block(held):
    """benchmarks/photographs.py: a row a method."""
    body = []
    for name, row in held["methods"].items():
        rest = ["–"] * 3
        if "false" in row:
            rest = [
                f"{row['false']} of {held['without']}",
                f"{row['detecting_ms']:.1f}",
                f"{row['following_ms']:.1f}",
            ]
        body.append([name, *errors_of_method(row, held["photographs"]), *rest])
    heads = [*HEADS_OF_ERRORS, "false", "ms, detecting", "ms, following"]
    return "\n".join([*table_of(["", *heads], body), ""])


def fifths_block(held):
    """Errors of each fifth of the photographs."""
    body = []
    for name, row in held["methods"].items():
        for measure in ("mm", "Procrustes"):
            body.append([name, measure, *(f"{one:.1f}" for one in row["mm"][measure]["fifths"])])
    heads = ["", "", *(f"fifth {number}" for number in range(1, 6))]
    return "\n".join([*table_of(heads, body), ""])


def shares_block(held):
    """Hands in larger pictures, and in photographs that may be used by anybody."""
    methods = {name: row for name, row in held["methods"].items() if "shares" in row}
    first = next(iter(methods.values()))
    body = []
    for name in first["shares"]:
        share = float(name.split()[1])
        cells = [row["shares"][name] for row in methods.values()]
        label = f"{100 * share:.0f} % of the picture's height ({cells[0]['hands']})"
        body.append([label, *(f"{one['found']} / {one['good']}" for one in cells)])
    for name, one in first["open"].items():
        cells = [row["open"][name]["found"] for row in methods.values()]
        body.append([f"{name} ({one['pictures']})", *map(str, cells)])
    if "digits" in first["open"]:
        cells = [str(row["digits_right"]) for row in methods.values()]
        body.append(["digits, the right side", *cells])
    return "\n".join([*table_of(["found / good", *methods], body), ""])


def front_photographs_block(held):
    """What its users would pick instead, beside it."""
    names = {
        "MediaPipe full": "MediaPipe Hands",
        "cmkg": "what comes with cmkg: MediaPipe's, taught with rendered depth",
        "adapted": "**taught by you: 368 labelled frames, minutes on a laptop**",
    }
    body = []
    for name, label in names.items():
        if name in held["methods"]:
            row = held["methods"][name]
            mm = [f"{row['mm'][one]['all']:.1f}" for one in ("mm", "Procrustes")]
            body.append([label, *mm, f"{row['photographs']['px_percent']:.1f} %"])
    heads = ["error on 460 photographs", "mm", "mm, after Procrustes", "on the picture"]
    return "\n".join([*table_of(heads, body), ""])


ADAPTING_ROWS = {
    "untouched": "untouched",
    "ridge": "the last layer alone, by ridge regression (seconds)",
    "plain": "**plain: what `cmkg adapt` does**",
    "decay": "with a pull to the start (L2-SP)",
    "frozen": "the first 20 layers frozen",
    "rendered": "rendered hands alongside",
    "average 0.8": "weights: 0.8 taught, 0.2 the start's (WiSE-FT)",
    "average 0.5": "weights: half taught, half the start's",
}


def mean_and_spread(values):
    return f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}"


def adapting_rows_block(held):
    """studies/adapting.py: each fifth held out once."""
    body = []
    for name, label in ADAPTING_ROWS.items():
        fifths = held["rows"].get(name)
        if not fifths:
            continue
        order = [fifths[key] for key in sorted(fifths)]
        cells = [mean_and_spread([one[key] for one in order]) for key in ADAPTING_MEASURES]
        worst = max(one["mm"] for one in order)
        body.append(
            [label, *cells, f"{worst:.1f}", f"{100 * min(o['found'] for o in order):.0f} %"]
        )
    heads = ["", *ADAPTING_MEASURES.values(), "mm, worst fifth", "found, worst"]
    return "\n".join([*table_of(heads, body), ""])


ADAPTING_MEASURES = {
    "mm": "mm",
    "procrustes_mm": "Procrustes",
    "px_percent": "on the picture, %",
    "mm_no_camera": "mm, camera unknown",
}


def adapting_curve_block(held):
    """By how many labels."""
    body, fifths = [], held["rows"]["untouched"]
    draws = len(next(iter(held["curve"].values())))
    untouched = [fifths[str(number)] for number in range(draws)]  # the same fifths
    for labels, draws in ({"0": untouched} | held["curve"]).items():
        cells = [mean_and_spread([one[key] for one in draws]) for key in ADAPTING_MEASURES]
        body.append([labels, *cells])
    return "\n".join([*table_of(["labels", *ADAPTING_MEASURES.values()], body), ""])


def adapting_kinds_block(held):
    """Other kinds of pictures; what is forgotten."""
    body = []
    for kind, rows in held["kinds"].items():
        for name in sorted(rows, key=lambda name: name != "untouched"):
            one = rows[name]
            label = name.replace("taught", "adapted").replace("plain pictures", "then: plain ones")
            keys = ("mm", "procrustes_mm", "px_percent")
            cells = ["–" if one[key] is None else f"{one[key]:.1f}" for key in keys]
            body.append([kind, label, *cells, f"{100 * one['found']:.0f} %"])
    heads = ["pictures", "", "mm", "Procrustes", "on the picture, %", "found"]
    return "\n".join([*table_of(heads, body), ""])


def recordings_block(held):
    """What examples/recordings.sh prints."""
    names = {
        "teacher": "depth itself (the teacher), on the labelled pairs",
        "student": "pictures of the labelled pairs",
        "control": "control: on all pairs, taught by that student",
        "distilled": "**on all pairs, taught by the teacher**",
    }
    body = [[label, f"{held['epe_mm'][name]:.1f}"] for name, label in names.items()]
    return "\n".join([*table_of(["", "EPE, mm"], body), ""])


def weights_block(held):
    """What teaching changed, on what it was chosen on: no labelled photograph."""
    body = []
    for network, result in held.items():
        for name in ("untouched", "taught"):
            cells = []
            for kind in ("rendered", "photographs"):
                one = result[name][kind]
                cells += [f"{one[key]:.1f}" for key in ("mm", "procrustes_mm", "px")]
            body.append([network, name, *cells])
    heads = ["", "", *("mm", "Procrustes", "px") * 2]
    return "\n".join([*table_of(heads, body), ""])


def small_worth_block(held):
    """Rows without and with depth on the source and on both targets."""
    format_error = tables.formatter_of(held)
    cells = {cell["target"]: {row["name"]: row for row in cell["rows"]} for cell in held["cells"]}
    names = {"rendered": "rendered target", "photographs": "photographs"}
    rows = {
        "student": "labels only",
        "depth": "**taught by depth**",
        "rgb": "control: taught by RGB",
        "shuffled": "control: taught by shuffled depth",
        "all": "all 5,000 labels",
    }
    body = []
    for row, label in rows.items():
        errors = [cells["source"][row]]
        for target in names:
            errors += [cells[target].get(f"{how}-{row}") for how in ("untouched", "tuned")]
        body.append([label, *("" if one is None else format_error(one) for one in errors)])
    heads = [f"{title}, {how}" for title in names.values() for how in ("untouched", "trained on")]
    return "\n".join([*table_of(["student", "source", *heads], body), ""])


def front_worth_block(held):
    """What depth and the prior brought, beside what one would do instead; see the README."""
    format_error = tables.formatter_of(held)
    cells = {cell["target"]: {row["name"]: row for row in cell["rows"]} for cell in held["cells"]}
    targets = ("rendered", "photographs")
    rows = [
        ("250 labels", "student", "untouched-student"),
        ("**250 labels, taught by depth on all pairs**", "depth", "untouched-depth"),
        ("control: taught by a network that sees pictures, too", "rgb", "untouched-rgb"),
        ("instead: 5,000 labels", "all", "untouched-all"),
        ("*then trained on the other set:* from random weights, weight decay", "", "l2"),
        ("from random weights, a prior by the paper's inner step", "", "letter"),
        ("from random weights, our variant of that prior", "", "adam"),
        ("control: our variant, learned without the teacher", "", "adam-no-teacher"),
        ("instead: from the student that depth taught", "", "tuned-depth"),
    ]
    body = []
    for label, source, target in rows:
        own = [cells["source"][source]] if source else [None]
        own += [cells[name].get(target) for name in targets]
        body.append([label, *("–" if one is None else format_error(one) for one in own)])
    heads = ["error, mm", "its own hands", "other rendered hands", "photographs"]
    return "\n".join([*table_of(heads, body), ""])


def block_of(name, held):
    """What stands between a result's markers."""
    if name == "units":
        facts = f"`python -m studies.units`, commit {held['commit']}, {held['machine']}, one seed."
        return f"{facts}\n\n{format_units(held)}"
    return cells_block(held) if "cells" in held else run_block(held)


def filled_documents():
    """{path: text} of the pages as the results have them."""
    pages = (
        "README.md",
        *(
            f"docs/{page}.md"
            for page in (
                "study",
                "study_tables",
                "paper",
                "hands",
                "mediapipe",
                "recordings",
                "demo",
            )
        ),
    )
    documents = {ROOT / page: (ROOT / page).read_text() for page in pages}
    results = load_results("docs/results")
    for name, held in results.items():
        for marker, block in blocks_of(name, held).items():
            new = {
                document: text
                for document, old in documents.items()
                if (text := filled(old, marker, block)) is not None
            }
            if not new:
                raise SystemExit(
                    f"none of {', '.join(pages)} has <!-- {marker} --> ... <!-- /{marker} --> to "
                    "fill"
                )
            documents |= new
    every = load_results("docs/results/before") | results
    return {path: sentences(text, every) for path, text in documents.items()}


def load_results(folder):
    """{name: what its file holds} of a folder of results; what is in two files is one result."""
    held = {
        path.stem: json.loads(path.read_text()) for path in sorted((ROOT / folder).glob("*.json"))
    }
    for name in [name for name in held if name.endswith(MORE_SEEDS)]:
        first = name.removesuffix(MORE_SEEDS)
        if first not in held:
            raise SystemExit(f"{folder}/{name}.json: expected {first}.json beside it")
        held[first] = joined(held[first], held.pop(name))
    return held


def main():
    for document, text in filled_documents().items():
        document.write_text(text)
    results = load_results("docs/results")
    (ROOT / "docs/labels.svg").write_text(draw_labels(results["labels"]))
    panels = []
    for cell in results["worth"]["cells"][1:]:
        rows = {row["name"]: row for row in cell["rows"]}
        panels.append({"target": cell["target"], "rows": [rows[name] for name in ON_CHART]})
    (ROOT / "docs/worth.svg").write_text(draw_errors(panels, ("untouched-student", "l2")))


if __name__ == "__main__":
    main()
