"""`cmkg <stage> --flags`. Errors of the user's making end in one sentence and exit code 2."""

import sys
from typing import Annotated, Union

from .errors import InputError


def commands():
    """The union of all stages' settings for tyro, and what runs each. Imported late: rendering processes load this file."""
    import tyro

    from .recipes import distill, evaluate, experiment, render, student, target, teacher

    stages = {
        "run": (experiment, experiment.Experiment, "Everything: source, teacher, student, prior, target rows, report."),
        "render": (render, render.Render, "Draw a packed set of hands."),
        "teacher": (teacher, teacher.Teacher, "Train the depth teacher on the source."),
        "student": (student, student.Student, "Train the RGB student on the source."),
        "distill": (distill, distill.Distill, "Distil the teacher into the student and learn the prior."),
        "target": (target, target.Target, "Train the student on the target, with or without a prior."),
        "evaluate": (evaluate, evaluate.Evaluate, "Score a student on a packed set."),
    }
    union = [Annotated[kind, tyro.conf.subcommand(name, description=text)] for name, (_, kind, text) in stages.items()]
    return Union[tuple(union)], {kind: module.run for module, kind, _ in stages.values()}  # noqa: UP007 - built at run time


def main():
    try:
        import tyro

        union, run = commands()
        config = tyro.cli(union, prog="cmkg", description=__import__("cmkg").__doc__)
        result = run[type(config)](config)
        if isinstance(result, dict) and "epe_mm" in result:
            print(f"EPE {result['epe_mm']:.2f} mm   AUC 20-50 {result['auc_20_50']:.3f}   {result['samples']} samples")
    except InputError as error:
        sys.exit(_say(str(error)))
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        sys.exit(_say(f"{where}{error.strerror or error}; free space or choose another --out, then run the same command again"))
    except KeyboardInterrupt:
        _say("stopped; the same command goes on from here")
        sys.exit(130)


def _say(sentence):
    print(f"cmkg: {sentence}", file=sys.stderr)
    return 2
