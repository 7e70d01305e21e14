"""Tables of what benchmarks/photographs.py measured, for the documents."""

from studies.tables import table_of

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
