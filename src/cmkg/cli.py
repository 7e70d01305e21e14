"""`cmkg <stage> --flags`. Errors of the user's making end in one sentence and exit code 2."""

import errno
import sys
import warnings
from typing import Annotated, Union

from .errors import InputError


def commands():
    """{name: (module, settings, description)} of all stages. Imported late: rendering processes load this file too."""
    from .recipes import distill, evaluate, experiment, render, student, target, teacher

    return {
        "run": (
            experiment,
            experiment.Experiment,
            "Everything: source, teacher, student, prior, target rows, report. `run demo`, `run real`.",
        ),
        "render": (render, render.Render, "Draw a packed set of hands."),
        "teacher": (teacher, teacher.Teacher, "Train the depth teacher on the source."),
        "student": (student, student.Student, "Train the RGB student on the source."),
        "distill": (distill, distill.Distill, "Distil the teacher into the student and learn the prior."),
        "target": (target, target.Target, "Train the student on the target, with or without a prior."),
        "evaluate": (evaluate, evaluate.Evaluate, "Score a student on a packed set."),
    }


def parse(arguments, stages):
    """The settings that the command line asks for. `run` takes a preset's name first; none is `demo`."""
    import tyro

    if arguments[:1] == ["run"]:
        preset = (
            arguments[1:]
            if arguments[1:2] and not arguments[1].startswith("-") or "--help" in arguments
            else ["demo", *arguments[1:]]
        )
        return tyro.extras.overridable_config_cli(stages["run"][0].PRESETS, args=preset, prog="cmkg run")
    union = tuple(
        Annotated[kind, tyro.conf.subcommand(name, description=text)] for name, (_, kind, text) in stages.items()
    )
    return tyro.cli(Union[union], args=arguments, prog="cmkg", description=sys.modules["cmkg"].__doc__)  # noqa: UP007 - built at run time


def main():
    warnings.showwarning = lambda message, *_: print(f"cmkg: note: {message}", file=sys.stderr)
    try:
        stages = commands()
        config = parse(sys.argv[1:], stages)
        result = next(module.run for module, kind, _ in stages.values() if isinstance(config, kind))(config)
        if isinstance(result, dict) and "epe_mm" in result:
            print(f"EPE {result['epe_mm']:.2f} mm   AUC 20-50 {result['auc_20_50']:.3f}   {result['samples']} samples")
    except InputError as error:
        sys.exit(_say(str(error)))
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        full = error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO)
        hint = "; free space or choose another --out, then run the same command again" if full else ""
        sys.exit(_say(f"{where}{error.strerror or error}{hint}"))
    except KeyboardInterrupt:
        _say("stopped; the same command goes on from here")
        sys.exit(130)


def _say(sentence):
    print(f"cmkg: {sentence}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
