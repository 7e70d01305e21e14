"""`cmkg <command> --flags`: one table of commands, and how a command ends.

Errors of the user's making end in one sentence and exit code 2. Nothing heavy is imported before it
is known which command is meant.
"""

from __future__ import annotations

import difflib
import errno
import os
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from .errors import Diverged, InputError
from .runtime.text import printable

if TYPE_CHECKING:
    from .runtime.stopping import Stopped


class Command(NamedTuple):
    """Where a command's code is.

    module: has `run(settings)`. settings: a dataclass of it, or a default instance. text: what it
    does.
    """

    module: str
    settings: str
    text: str


HANDS = "cmkg.hands"
STAGES, EXPERIMENTS = f"{HANDS}.stages", f"{HANDS}.experiments"
PAPER = f"{EXPERIMENTS}.paper"
COMMANDS = {
    "predict": Command(
        f"{STAGES}.predict", "Predict", "21 joints of the hands in photographs and videos."
    ),
    "render": Command(f"{STAGES}.render", "Render", "Draw a packed set of hands."),
    "teacher": Command(f"{STAGES}.source", "TEACHER", "Train the depth teacher on the source."),
    "student": Command(f"{STAGES}.source", "STUDENT", "Train the RGB student on the source."),
    "distill": Command(
        f"{STAGES}.distill", "Distill", "Distil the teacher into the student; learn the prior."
    ),
    "target": Command(
        f"{STAGES}.target", "Target", "Train the student on the target, with or without a prior."
    ),
    "evaluate": Command(f"{STAGES}.evaluate", "Evaluate", "Score a student on a packed set."),
    "lookalikes": Command(
        f"{STAGES}.draw_lookalikes", "DrawLookAlikes", "Draw look-alikes of a target's hands."
    ),
    "preflight": Command(
        f"{STAGES}.short_run",
        "ShortRun",
        "A short run: are distilling, transfer and the prior likely to help?",
    ),
    "adapt": Command(
        f"{EXPERIMENTS}.adapt", "Adapt", "Teach the hand network your own camera, hands or gloves."
    ),
    "export": Command(
        f"{STAGES}.export_hand", "ExportHand", "A taught hand network as MediaPipe's own file."
    ),
    "export-student": Command(
        f"{STAGES}.export_student", "Export", "A student as a folder that huggingface_hub loads."
    ),
    "page": Command(
        f"{STAGES}.write_page", "Page", "A web page that finds hands in the visitor's browser."
    ),
    "report": Command(f"{STAGES}.write_report", "WriteReport", "Write a run's report anew."),
}
GROUPS = {
    "run": {
        "demo": Command(f"{EXPERIMENTS}.main", "DEMO", "Everything, on a rendered target."),
        "real": Command(f"{EXPERIMENTS}.main", "REAL", "Everything, on a folder of recordings."),
        "weights": Command(
            f"{EXPERIMENTS}.weights", "WEIGHTS", "The hand network that comes with cmkg, anew."
        ),
        "table1": Command(PAPER, "table1", "The paper's Table 1: RHD."),
        "table2": Command(PAPER, "table2", "The paper's Table 2: STB."),
        "table3": Command(PAPER, "table3", "The paper's Table 3: FreiHAND's domains and STB."),
        "figure4": Command(PAPER, "figure4", "The paper's Figure 4: PCK curves."),
        "figure5": Command(PAPER, "figure5", "The paper's Figure 5: histograms of weights."),
        "figure6": Command(PAPER, "figure6", "The paper's Figure 6: test pictures."),
    },
    "data": {
        "inspect": Command(f"{STAGES}.data", "Inspect", "Draw a contact sheet of a dataset."),
        "verify": Command(f"{STAGES}.data", "Verify", "Look at every file and field."),
        "pack": Command(f"{STAGES}.data", "Pack", "Write the packed set that training reads."),
        "merge": Command(f"{STAGES}.data", "Merge", "One packed set of its shards."),
        "info": Command(f"{STAGES}.data", "Info", "What a packed set holds; its checksums."),
        "textures": Command(
            f"{STAGES}.carry_textures",
            "CarryTextures",
            "Carry the colours of scans to a hand's vertices.",
        ),
        "make": Command(f"{STAGES}.data", "Make", "Write made data in a dataset's layout."),
    },
    "prior": {
        "info": Command(f"{STAGES}.prior_files", "Info", "Where a prior comes from; quantiles."),
        "compare": Command(f"{STAGES}.prior_files", "Compare", "How alike two priors are."),
        "merge": Command(f"{STAGES}.prior_files", "Merge", "One prior of several."),
        "plot": Command(f"{STAGES}.prior_files", "Plot", "phi per layer as a picture (SVG)."),
    },
}
GROUP_TEXTS = {
    "run": "Everything, from the source to the report; the paper's tables and figures.",
    "data": "Datasets on disk.",
    "prior": "Prior files.",
}
IN_PICTURES = ("predict", "adapt", "export", "page")  # of the commands, told first
DEFAULT_PRESET = "demo"  # of `cmkg run`
TRAINING_MODULES = (
    "torch",
    "scipy",
    "pydantic",
    "matplotlib",
    "jinja2",
    "huggingface_hub",
    "lightning_fabric",
    "warp",
    "plyfile",
)  # of the extra `train`
NO_MEMORY = (
    "this machine has not enough memory for it; give a smaller --batch, --px or --width, or fewer "
    "--workers"
)
FULL_DISK = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO)


# ---- finding the command -------------------------------------------------------------------------
def main() -> None:
    """The program."""
    for stream in (sys.stdout, sys.stderr):  # a terminal may not have every letter
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    end_in_one_sentence(lambda: run_command(sys.argv[1:]))


def run_command(arguments: Sequence[str]) -> None:
    """Runs the command that the arguments name.

    Raises:
        InputError: there is no such command, or what it says.
    """
    first, *rest = arguments or ["--help"]
    if first in ("--help", "-h"):
        print(format_help())
        return
    if first == "--version":
        from . import __version__

        print(f"cmkg {__version__}")
        return
    if first in GROUPS:
        group = GROUPS[first]
        if first == "run" and (not rest or rest[0].startswith("-")) and "--help" not in rest:
            rest = [DEFAULT_PRESET, *rest]
        if not rest or rest[0] in ("--help", "-h"):
            print(format_group_help(first))
            return
        command = find_command(group, rest[0], f"cmkg {first}")
        execute(command, f"cmkg {first} {rest[0]}", rest[1:])
        return
    execute(find_command(COMMANDS, first, "cmkg"), f"cmkg {first}", rest)


def find_command(known: dict[str, Command], name: str, program: str) -> Command:
    """The command of a name.

    Raises:
        InputError: there is none; suggests what may have been meant.
    """
    if name in known:
        return known[name]
    names = [*known, *GROUPS] if known is COMMANDS else list(known)
    near = difflib.get_close_matches(name, names, 1)
    hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(names)}"
    said = f"{program} {name}".removeprefix("cmkg ")
    raise InputError(f"{said}: no such command; {hint}")


def format_help() -> str:
    """What all commands are."""
    about = (import_module("cmkg").__doc__ or "").splitlines()[0]
    lines = ["usage: cmkg <command> [--flags]", "", about]
    stages = [name for name in COMMANDS if name not in IN_PICTURES]
    for title, names in (("hands in your own pictures", IN_PICTURES), ("stage by stage", stages)):
        lines += ["", f"{title}:"]
        lines += [f"  {name:16}{COMMANDS[name].text}" for name in names]
        if names is IN_PICTURES:
            lines += ["", "everything in one go:"]
            lines += [f"  {f'run {name}':16}{c.text}" for name, c in GROUPS["run"].items()]
    for group in ("data", "prior"):
        lines += ["", f"{GROUP_TEXTS[group].lower().rstrip('.')}:"]
        lines += [f"  {f'{group} {name}':16}{c.text}" for name, c in GROUPS[group].items()]
    return "\n".join([*lines, "", "cmkg <command> --help lists a command's settings."])


def format_group_help(group: str) -> str:
    """What the commands of a group are."""
    lines = [f"usage: cmkg {group} <what> [--flags]", "", GROUP_TEXTS[group], ""]
    lines += [f"  {name:10}{command.text}" for name, command in GROUPS[group].items()]
    return "\n".join([*lines, "", f"cmkg {group} <what> --help lists its settings."])


def parse_settings(command: Command, program: str, arguments: Sequence[str]) -> Any:
    """The settings that the arguments ask for."""
    import tyro

    module = import_module(command.module)
    if command.module == PAPER:
        presets = import_module(f"{EXPERIMENTS}.paper_settings")
        settings = presets.preset_of(command.settings, "--open" in arguments)
    else:
        settings = getattr(module, command.settings)
    kind, default = settings, tyro.MISSING_NONPROP
    if not isinstance(settings, type):
        kind, default = type(settings), settings
    return tyro.cli(
        kind, default=default, args=list(arguments), prog=program, description=command.text
    )


def execute(command: Command, program: str, arguments: Sequence[str]) -> None:
    """Runs a command and prints its score, if it has one."""
    from .runtime.checks import expect_out_of_inputs, expect_sane

    config = parse_settings(command, program, arguments)
    expect_sane(config)
    expect_out_of_inputs(config)
    if "WORLD_SIZE" in os.environ:
        from .runtime.distributed import join_launched_processes

        join_launched_processes()
    result = import_module(command.module).run(config)
    if not isinstance(result, dict) or "epe_mm" not in result or _rank():
        return
    if "protocol" in result:
        print(import_module(command.module).format_result(result))
    else:
        print(
            f"EPE {result['epe_mm']:.2f} mm   AUC 20-50 {result['auc_20_50']:.3f}   "
            f"{result['samples']} samples"
        )


# ---- how a program ends --------------------------------------------------------------------------
def end_in_one_sentence(program: Callable[[], object]) -> None:
    """Runs a program; what is the user's or the machine's fault becomes one sentence.

    Exit code 2; 1 where a training diverged; 130 or 143 where it was stopped by SIGINT or SIGTERM.
    Errors of ours keep their traceback.
    """
    from .runtime.stopping import Stopped, received, stop_on_signals

    warnings.showwarning = _show_warning
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115 - they may be closed
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    try:
        stop_on_signals()
        program()
        sys.stdout.flush()
    except BrokenPipeError:  # `| head` has read enough
        _leave_quietly()
    except InputError as error:
        _exit(str(error))
    except Diverged as error:
        _exit(str(error), 1)
    except OSError as error:
        _exit(_describe_os_error(error))
    except ModuleNotFoundError as error:
        if error.name not in TRAINING_MODULES:
            _exit_if_stopped(received())
            raise
        _exit(
            f"this command needs {error.name}, which is not installed: install cmkg with its extra "
            "'train' (in a checkout: pip install '.[train]')"
        )
    except MemoryError:
        _exit(NO_MEMORY)
    except RuntimeError as error:
        if any(words in str(error) for words in ("allocate memory", "out of memory")):
            _exit(NO_MEMORY)
        if not _is_lost_contact(error):
            _exit_if_stopped(received())
            raise
        from .runtime.distributed import describe_lost_contact

        _exit(f"{describe_lost_contact(error)}; start the same command again")
    except KeyboardInterrupt as stop:
        _exit(*_describe_stop(stop if isinstance(stop, Stopped) else Stopped(signal.SIGINT)))
    except (ImportError, SystemError):
        _exit_if_stopped(received())
        raise


def _exit_if_stopped(number: int) -> None:
    """Where a signal came in the middle of an import, libraries call it an error of theirs."""
    from .runtime.stopping import Stopped

    if number:
        _exit(*_describe_stop(Stopped(number)))


def _describe_stop(stop: Stopped) -> tuple[str, int]:
    """The sentence, and the exit code."""
    name = signal.Signals(stop.number).name
    if not stop.sentence:
        return f"stopped by {name}", stop.exit_code
    going_on = "the same command goes on from there"
    return f"stopped by {name}; {stop.sentence}; {going_on}", stop.exit_code


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(printable(f"cmkg: note: {message}"), file=sys.stderr)


def _describe_os_error(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    hint = ""
    if error.errno == errno.ELOOP:
        hint = "; links lead in a circle there, give the file itself"
    if error.errno in FULL_DISK:
        hint = "; free space or choose another --out, then run the same command again"
    return f"{where}{error.strerror or error}{hint}"


def _exit(sentence: str, code: int = 2) -> None:
    with suppress(OSError, ValueError):  # standard error is closed: the exit code says it
        print(printable(f"cmkg: {sentence}"), file=sys.stderr, flush=True)
    sys.exit(code)


def _leave_quietly() -> None:
    """Ends with code 0; Python must not complain of the closed pipe when it flushes at its end."""
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    sys.exit(0)


def _is_lost_contact(error: RuntimeError) -> bool:
    if "torch" not in sys.modules:
        return False
    from .runtime.distributed import is_lost_contact

    return is_lost_contact(error)


def _rank() -> int:
    if "torch" not in sys.modules:
        return 0
    from .runtime.ranks import rank

    return rank()


if __name__ == "__main__":
    main()
