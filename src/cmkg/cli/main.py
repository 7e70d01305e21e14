"""`cmkg <command> --flags`: finds the command, parses its settings, runs it.

Heavy modules are imported only after the command is known.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from ..errors import InputError
from .exit_codes import end_in_one_sentence
from .table import COMMANDS, DEFAULT_EXPERIMENT, FOR_PICTURES, GROUPS, STAGES, Command


def main() -> None:
    """Runs the program."""
    for stream in (sys.stdout, sys.stderr):  # a terminal may lack some characters
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    end_in_one_sentence(lambda: run_command(sys.argv[1:]))


def run_command(arguments: Sequence[str]) -> None:
    """Runs the command that the arguments name.

    Raises:
        InputError: If there is no such command, or the command raises it.
    """
    first, *rest = arguments or ["--help"]
    if first in ("--help", "-h"):
        print(format_help())
        return
    if first == "--version":
        from ..version import __version__

        print(f"cmkg {__version__}")
        return
    if first not in GROUPS:
        execute(find_command(COMMANDS, first, "cmkg"), f"cmkg {first}", rest)
        return
    if first == "run" and (not rest or rest[0].startswith("-")) and "--help" not in rest:
        rest = [DEFAULT_EXPERIMENT, *rest]
    if not rest or rest[0] in ("--help", "-h"):
        print(format_group_help(first))
        return
    command = find_command(GROUPS[first].commands, rest[0], f"cmkg {first}")
    execute(command, f"cmkg {first} {rest[0]}", rest[1:])


def find_command(known: dict[str, Command], name: str, program: str) -> Command:
    """Returns the command with the given name.

    Raises:
        InputError: If there is none; the message suggests a similar one.
    """
    if name in known:
        return known[name]
    names = [*known, *GROUPS] if known is COMMANDS else list(known)
    near = difflib.get_close_matches(name, names, 1)
    hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(names)}"
    full_name = f"{program} {name}".removeprefix("cmkg ")
    raise InputError(f"{full_name}: no such command; {hint}")


def format_help() -> str:
    """Returns the list of commands and what they do."""
    about = (import_module("cmkg").__doc__ or "").splitlines()[0]
    sections = {
        "hands in your own pictures": FOR_PICTURES,
        "everything in one go": with_first_word("run"),
        "stage by stage": STAGES,
        "datasets on disk": with_first_word("data"),
        "prior files": with_first_word("prior"),
    }
    lines = ["usage: cmkg <command> [--flags]", "", about]
    for title, commands in sections.items():
        lines += ["", f"{title}:"]
        lines += [f"  {name:16}{command.text}" for name, command in commands.items()]
    return "\n".join([*lines, "", "cmkg <command> --help lists a command's settings."])


def with_first_word(group: str) -> dict[str, Command]:
    """Returns {full name: command} of a group."""
    return {f"{group} {name}": command for name, command in GROUPS[group].commands.items()}


def format_group_help(group: str) -> str:
    """Returns the commands of a group and what they do."""
    lines = [f"usage: cmkg {group} <what> [--flags]", "", GROUPS[group].text, ""]
    lines += [f"  {name:10}{command.text}" for name, command in GROUPS[group].commands.items()]
    return "\n".join([*lines, "", f"cmkg {group} <what> --help lists its settings."])


def parse_settings(command: Command, program: str, arguments: Sequence[str]) -> Any:
    """Parses the arguments into the command's settings."""
    import tyro

    module = import_module(command.module)
    settings = module.SETTINGS
    if command.preset:
        settings = module.settings_for(command.preset, arguments)
    kind, default = settings, tyro.MISSING_NONPROP
    if not isinstance(settings, type):
        kind, default = type(settings), settings
    registry = tyro.constructors.ConstructorRegistry()
    registry.primitive_rule(choose_by_name)
    return tyro.cli(
        kind,
        default=default,
        args=list(arguments),
        prog=program,
        description=command.text,
        registry=registry,
    )


def choose_by_name(info: Any) -> Any:
    """Makes tyro parse "one of these names, or a function" by name on the command line."""
    import tyro

    if get_origin(info.type) not in (Union, UnionType):
        return None
    parts = get_args(info.type)
    names = [name for part in parts if get_origin(part) is Literal for name in get_args(part)]
    if len(parts) != 2 or not names or not any(get_origin(part) is Callable for part in parts):
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="{" + ",".join(names) + "}",
        instance_from_str=lambda words: words[0],
        is_instance=lambda value: isinstance(value, str),
        str_from_instance=lambda value: [value],
        choices=tuple(names),
    )


def execute(command: Command, program: str, arguments: Sequence[str]) -> None:
    """Runs a command and prints its score, if it has one."""
    from ..runtime.checks import expect_out_of_inputs, expect_sane

    config = parse_settings(command, program, arguments)
    expect_sane(config)
    expect_out_of_inputs(config)
    if "WORLD_SIZE" in os.environ:
        from ..runtime.distributed import join_launched_processes

        join_launched_processes()
    module = import_module(command.module)
    result = module.run(config)
    if not isinstance(result, dict) or "epe_mm" not in result or _rank():
        return
    if hasattr(module, "format_result"):
        print(module.format_result(result))
    else:
        print(
            f"EPE {result['epe_mm']:.2f} mm   AUC 20-50 {result['auc_20_50']:.3f}   "
            f"{result['samples']} samples"
        )


def _rank() -> int:
    if "torch" not in sys.modules:
        return 0
    from ..runtime.ranks import rank

    return rank()


if __name__ == "__main__":
    main()
