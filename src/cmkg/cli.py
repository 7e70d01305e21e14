"""`cmkg <stage> --flags`. Errors of the user's making end in one sentence and exit code 2."""

import errno
import sys
import warnings
from typing import Annotated, Union

from .engine import rank, world
from .errors import InputError


def commands():
    """{name: (module, settings, description)} of all stages. Imported late: rendering processes
    load this file too."""
    from .recipes import (
        data,
        distill,
        evaluate,
        experiment,
        export,
        lookalikes,
        preflight,
        priors,
        render,
        report,
        student,
        target,
        teacher,
    )

    return {
        "run": (
            experiment,
            experiment.Experiment,
            "Everything, from the source to the report: `run demo`, `run real`; the paper: "
            "`run table1` ... `run figure6`.",
        ),
        "render": (render, render.Render, "Draw a packed set of hands."),
        "lookalikes": (
            lookalikes,
            lookalikes.LookAlike,
            "Draw rendered look-alikes of a target, to train beside it.",
        ),
        "teacher": (teacher, teacher.Teacher, "Train the depth teacher on the source."),
        "student": (student, student.Student, "Train the RGB student on the source."),
        "distill": (
            distill,
            distill.Distill,
            "Distil the teacher into the student and learn the prior.",
        ),
        "target": (
            target,
            target.Target,
            "Train the student on the target, with or without a prior.",
        ),
        "preflight": (
            preflight,
            preflight.Preflight,
            "From a short run: are distilling, transfer and the prior likely to help?",
        ),
        "prior": (
            priors,
            priors.Priors,
            "Prior files: info, compare, merge, plot. `cmkg prior --help` lists them.",
        ),
        "export": (
            export,
            export.Export,
            "A student as a folder that huggingface_hub loads, with its model card.",
        ),
        "report": (report, report.Report, "Write a run's report anew from its folder."),
        "data": (
            data,
            data.Data,
            "Datasets on disk: inspect, verify, pack, info, make. `cmkg data --help` lists them.",
        ),
        "evaluate": (evaluate, evaluate.Evaluate, "Score a student on a packed set."),
    }


def parse(arguments, stages):
    """The settings that the command line asks for. `run` takes a preset's name first; none is
    `demo`."""
    import tyro

    from .recipes import graded, paper, regime, sources, study

    if arguments[:1] in (["data"], ["prior"]):
        module, _, text = stages[arguments[0]]
        return tyro.cli(
            subcommands(module.COMMANDS),
            args=arguments[1:],
            prog=f"cmkg {arguments[0]}",
            description=text,
        )

    if arguments[:1] == ["run"]:
        preset = (
            arguments[1:]
            if arguments[1:2] and not arguments[1].startswith("-") or "--help" in arguments
            else ["demo", *arguments[1:]]
        )
        return tyro.extras.overridable_config_cli(
            stages["run"][0].PRESETS
            | paper.PRESETS
            | study.PRESETS
            | graded.PRESETS
            | sources.PRESETS
            | regime.PRESETS,
            args=preset,
            prog="cmkg run",
        )
    kinds = {name: (kind, text) for name, (_, kind, text) in stages.items()}
    return tyro.cli(
        subcommands(kinds), args=arguments, prog="cmkg", description=sys.modules["cmkg"].__doc__
    )


def subcommands(kinds):
    """The union that tyro reads as subcommands, of {name: (settings, description)}."""
    import tyro

    union = tuple(
        Annotated[kind, tyro.conf.subcommand(name, description=text)]
        for name, (kind, text) in kinds.items()
    )
    return Union[union]  # noqa: UP007 - built at run time


def main():
    warnings.showwarning = lambda message, *_: print(f"cmkg: note: {message}", file=sys.stderr)
    try:
        stages = commands()
        config = parse(sys.argv[1:], stages)
        result = sys.modules[type(config).__module__].run(config)
        if rank():
            return
        if isinstance(result, dict) and "protocol" in result:
            print(stages["evaluate"][0].sentence(result))
        elif isinstance(result, dict) and "epe_mm" in result:
            print(
                f"EPE {result['epe_mm']:.2f} mm   AUC 20-50 {result['auc_20_50']:.3f}   "
                f"{result['samples']} samples"
            )
    except InputError as error:
        sys.exit(_say(str(error)))
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        full = error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO)
        hint = (
            "; free space or choose another --out, then run the same command again" if full else ""
        )
        sys.exit(_say(f"{where}{error.strerror or error}{hint}"))
    except RuntimeError as error:
        if not lost_a_process(error):
            raise
        sys.exit(
            _say(
                f"process {rank()} lost contact with another ({str(error).splitlines()[0][:120]}); "
                "start the same command again: it goes on from the last checkpoint"
            )
        )
    except KeyboardInterrupt:
        _say("stopped; the same command goes on from here")
        sys.exit(130)


def lost_a_process(error):
    """Whether this is what a collective raises when another process has ended."""
    return world() > 1 and any(
        w in str(error) for w in ("Connection", "connection", "gloo", "NCCL", "peer")
    )


def _say(sentence):
    print(f"cmkg: {sentence}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
