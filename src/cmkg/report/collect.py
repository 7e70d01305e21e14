"""Run folders -> one dictionary of everything the report shows."""

from pathlib import Path

import numpy as np

from ..engine import read_json

UNTRAINED = {
    "mean-pose": "mean training pose",
    "untouched-student": "source student, untouched",
    "untouched-distilled": "distilled student, untouched",
}


def spread(values):
    """Mean and sample standard deviation over seeds."""
    return {
        "mean": float(np.mean(values)),
        "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None,
        "values": list(values),
    }


def row_folder(out, name):
    """Where a row's seeds lie: below the strength that was chosen, when it was tuned."""
    home = Path(out) / "target" / name
    tried = home / "tried.json"
    return home / f"sigma-{read_json(tried)['chosen']:g}" if tried.exists() else home


def target_row(out, row):
    home = row_folder(out, row["name"])
    seeds = sorted(home.glob("seed-*/result.json"), key=lambda p: int(p.parent.name.split("-")[1]))
    results = [read_json(p) for p in seeds]
    whole = out / "target" / row["name"]
    tried = read_json(whole / "tried.json") if (whole / "tried.json").exists() else None
    return {
        "name": row["name"],
        "label": row["label"],
        "trained": True,
        "epe_mm": spread([r["epe_mm"] for r in results]),
        "auc_20_50": spread([r["auc_20_50"] for r in results]),
        "pck": np.mean([r["pck"] for r in results], 0).tolist(),
        "per_joint_mm": np.mean([r["epe_per_joint_mm"] for r in results], 0).tolist(),
        "weights": results[0]["weights"],
        "tried": tried,
        "seconds": sum(read_json(p)["seconds"] for p in whole.rglob("result.json")),
    }


def untrained_row(out, name):
    result = read_json(out / "target" / name / "result.json")
    return {
        "name": name,
        "label": UNTRAINED[name],
        "trained": False,
        "epe_mm": spread([result["epe_mm"]]),
        "auc_20_50": spread([result["auc_20_50"]]),
        "pck": result["pck"],
        "per_joint_mm": result["epe_per_joint_mm"],
        "tried": None,
    }


def collect(out):
    """Everything of one `cmkg run` folder."""
    out = Path(out)
    plan = read_json(out / "rows.json")
    sessions = [
        s
        for f in ("", *plan["stages"])
        for s in read_json(out / f / "environment.json")["sessions"]
    ]
    hide_folders(plan["settings"], sessions)
    rows = [untrained_row(out, n) for n in UNTRAINED] + [target_row(out, r) for r in plan["rows"]]
    trained = [r for r in rows if r["trained"]]
    best = min(trained, key=lambda r: r["epe_mm"]["mean"])
    sources = {s: read_json(out / s / "result.json") for s in plan["stages"]}
    names = {
        "teacher": "depth (teacher)",
        "student": "RGB, first half",
        "continued": "RGB, both halves",
        "distill": "RGB, second half distilled",
    }
    return {
        "target": "real photographs"
        if plan["settings"]["target"] == "real hands"
        else "rendered, STB-like: one person, one camera, RGB only",
        "rows": rows,
        "best": best["name"],
        "source": [
            {
                "name": s,
                "label": names[s],
                "epe_mm": sources[s]["epe_mm"],
                "auc_20_50": sources[s]["auc_20_50"],
            }
            for s in names
        ],
        "phi": {f"p = {p}": read_json(out / f"distill/prior_p{p}.json") for p in (1, 2)},
        "blocks": plan["blocks"],
        "settings": plan["settings"],
        "sessions": sorted(sessions, key=lambda s: s["started"]),
        "seconds": {s: r["seconds"] for s, r in sources.items()}
        | {"target rows": sum(r["seconds"] for r in trained)},
        "counts": {
            n: read_json(out / f"data/{n}/meta.json")["holds"]["count"]
            for n in ("source", "source-test", "target", "target-test")
        },
        "loss_shares": loss_shares(out / "distill/metrics.jsonl"),
    }


def hide_folders(settings, sessions):
    """A report may be shared: of the user's own folders it names the last part only."""
    for key in ("out", "real_hands", "backgrounds"):
        if Path(folder := settings.get(key, "")).is_absolute():
            settings[key] = Path(folder).name
            for session in sessions:
                # the second is what quoting makes of it
                for written in (folder, folder.replace("'", "'\"'\"'")):
                    session["command"] = session["command"].replace(written, Path(folder).name)


def loss_shares(path):
    """Share of each term of G over distillation's last tenth: lambda is a matter of units."""
    import json

    lines = [json.loads(line) for line in path.read_text().splitlines()]
    last = lines[-max(len(lines) // 10, 1) :]
    terms = {
        t: float(np.mean([line[t] for line in last]))
        for t in ("regression", "activation", "attention")
    }
    return {t: v / sum(terms.values()) for t, v in terms.items()}
