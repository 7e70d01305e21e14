"""Where distilling is known to help, and where it cannot: two linear problems.

Positive controls from Lopez-Paz, Bottou, Schoelkopf and Vapnik, "Unifying distillation and
privileged information" (ICLR 2016, arXiv 1511.03643), experiments 1 and 3. x has 50 coordinates,
the student is logistic regression on them.

noisy labels: the class is the sign of a linear score plus noise. The teacher sees the score itself,
so what it answers is the label without its noise.
relevant features: the class follows from three of the coordinates. The teacher sees those three.

A teacher tells what few labels cannot; where labels are many it has nothing to add, and where the
teacher's view is another sample's it harms.

    # about a minute on two cores; accuracy over 10 draws
    python examples/linear.py
"""

import argparse

import torch
from torch import nn
from torch.nn import functional as F

from cmkg import Fields, FitConfig, OutputLoss, distill, train_with_prior

DIMENSIONS, TEST = 50, 10_000
PROBLEMS = {"noisy labels": (200, 500, 1000, 2000), "relevant features": (200,)}


def draw(problem, count, seed):
    """(x, the teacher's view, y) of count training samples, then of the test."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(count + TEST, DIMENSIONS, generator=g)
    alpha = torch.randn(DIMENSIONS, generator=g)
    if problem == "noisy labels":
        view = (x @ alpha)[:, None]
        y = (view[:, 0] + torch.randn(len(x), generator=g) > 0).long()
    else:
        chosen = torch.randperm(DIMENSIONS, generator=g)[:3]
        view = x[:, chosen]
        y = (view @ alpha[chosen] > 0).long()
    return (x[:count], view[:count], y[:count]), (x[count:], view[count:], y[count:])


def logistic_regression(inputs):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(inputs, 2))


def accuracy(model, x, y):
    with torch.no_grad():
        return 100 * (model(x).argmax(1) == y).double().mean().item()


def one_draw(problem, count, seed, steps):
    """{row: accuracy}."""
    (x, view, y), (x_test, view_test, y_test) = draw(problem, count, seed)
    fit = FitConfig(epochs=steps, lr=0.05, quiet=True)
    teacher = logistic_regression(view.shape[1])
    train_with_prior(teacher, [(view, y)], F.cross_entropy, fit=fit)

    def taught(views):
        student = logistic_regression(DIMENSIONS)
        pairs = Fields(student=0, teacher=1, target=None)  # the teacher's answers are the labels
        distill(
            student,
            teacher,
            [(x, views)],
            pairs=[("0", "0")],
            criterion=OutputLoss("classes"),
            fields=pairs,
            fit=fit,
        )
        return student

    on_labels = logistic_regression(DIMENSIONS)
    train_with_prior(on_labels, [(x, y)], F.cross_entropy, fit=fit)
    return {
        "teacher": accuracy(teacher, view_test, y_test),
        "student, on labels": accuracy(on_labels, x_test, y_test),
        "student, taught": accuracy(taught(view), x_test, y_test),
        "control: taught by other samples' views": accuracy(
            taught(view.roll(1, 0)), x_test, y_test
        ),
    }


def main(seeds=10, steps=300):
    """Prints and returns {(problem, samples): {row: [accuracy a draw]}}."""
    table = {}
    for problem, counts in PROBLEMS.items():
        for count in counts:
            draws = [one_draw(problem, count, seed, steps) for seed in range(seeds)]
            table[problem, count] = {row: [one[row] for one in draws] for row in draws[0]}
            print(f"{problem}, {count} samples")
            for row, values in table[problem, count].items():
                t = torch.tensor(values)
                print(f"    {row:42} {t.mean():5.1f} % ± {t.std() if seeds > 1 else 0:.1f}")
    return table


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=300)
    main(**vars(parser.parse_args()))
