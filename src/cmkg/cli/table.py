"""The table of commands, without heavy imports.

A command is a module with `SETTINGS` (a dataclass of settings, or a default instance of one) and
`run(settings)`. Its file has the command's name: to add a command, add its file and one line here.
"""

from __future__ import annotations

from typing import NamedTuple

COMMANDS_PACKAGE = "cmkg.hands.commands"
EXPERIMENTS = "cmkg.hands.experiments"
PAPER = "cmkg.hands.paper.reproduce"
DEFAULT_EXPERIMENT = "demo"  # of `cmkg run`


class Command(NamedTuple):
    """A command: the module with its code, and one sentence on what it does.

    preset: which of the module's settings to use, if it serves several commands.
    """

    module: str
    text: str
    preset: str = ""


class Group(NamedTuple):
    """Commands of two words, such as `cmkg data pack`: the subject, {second word: command}."""

    text: str
    commands: dict[str, Command]


def _commands(prefix: str, texts: dict[str, str]) -> dict[str, Command]:
    """Commands whose files are named after them."""
    return {
        name: Command(f"{prefix}{name.replace('-', '_')}", text) for name, text in texts.items()
    }


FOR_PICTURES = _commands(
    f"{COMMANDS_PACKAGE}.",
    {
        "predict": "Find the 21 joints of hands in photographs and videos.",
        "adapt": "Teach the hand network your own camera, hands or gloves.",
        "export": "Write a taught hand network as MediaPipe's own file.",
        "page": "Write a web page that finds hands in the visitor's browser.",
    },
)
STAGES = _commands(
    f"{COMMANDS_PACKAGE}.",
    {
        "render": "Render a packed set of hands.",
        "teacher": "Train the depth teacher on the source.",
        "student": "Train the RGB student on the source.",
        "distill": "Distil the teacher into the student; learn the prior.",
        "target": "Train the student on the target, with or without a prior.",
        "evaluate": "Score a student on a packed set.",
        "lookalikes": "Render look-alikes of a target's hands.",
        "preflight": "A short run: are distilling, transfer and the prior likely to help?",
        "export-student": "Write a student as a folder that huggingface_hub loads.",
    },
)
STAGES |= _commands(f"{EXPERIMENTS}.", {"report": "Write the report of an experiment again."})
COMMANDS = FOR_PICTURES | STAGES
GROUPS = {
    "run": Group(
        "Everything, from the source to the report; the paper's tables and figures.",
        _commands(
            f"{EXPERIMENTS}.",
            {
                "demo": "Everything, on a rendered target.",
                "real": "Everything, on a folder of recordings.",
                "weights": "The hand network that ships with cmkg, trained again.",
            },
        )
        | {
            "table1": Command(PAPER, "The paper's Table 1: RHD.", "table1"),
            "table2": Command(PAPER, "The paper's Table 2: STB.", "table2"),
            "table3": Command(PAPER, "The paper's Table 3: FreiHAND's domains and STB.", "table3"),
            "figure4": Command(PAPER, "The paper's Figure 4: PCK curves.", "figure4"),
            "figure5": Command(PAPER, "The paper's Figure 5: histograms of weights.", "figure5"),
            "figure6": Command(PAPER, "The paper's Figure 6: test pictures.", "figure6"),
        },
    ),
    "data": Group(
        "Datasets on disk.",
        _commands(
            f"{COMMANDS_PACKAGE}.data_",
            {
                "inspect": "Draw a contact sheet of a dataset.",
                "verify": "Check every file and field.",
                "pack": "Write the packed set that training reads.",
                "merge": "Make one packed set of its shards.",
                "info": "Show what a packed set holds; check its checksums.",
                "make": "Write synthetic data in a dataset's layout.",
            },
        ),
    ),
    "prior": Group(
        "Prior files.",
        _commands(
            f"{COMMANDS_PACKAGE}.prior_",
            {
                "info": "Show where a prior comes from, and its quantiles.",
                "compare": "Show how alike two priors are.",
                "merge": "Make one prior of several.",
                "plot": "Draw phi per layer (SVG).",
            },
        ),
    ),
}
