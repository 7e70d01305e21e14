"""Few labels, many pairs: digits, sharp for the teacher, coarse and noisy for the student.

Real data: scikit-learn's digits (1,797 scans of 8 x 8). Source: 900 pairs of a sharp picture and a
noisy one of 4 x 4; a few of them have a label. The teacher learns from the labelled sharp pictures
alone, and then answers for all pairs. Target: a darker, noisier sensor without a sharp view, 120
labelled digits; 777 others are its test.

Every student takes the same number of steps. Controls: a teacher that sees what the student sees
(the pairs' worth without the better view), the sharp view of another digit, and all labels.

    # about two minutes on two cores; accuracy over 5 seeds
    python examples/scarce_labels.py
"""

import argparse
import copy

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from cmkg import Fields, FitConfig, OutputLoss, distill, train_with_prior

SOURCE, TARGET, BATCH = 900, 120, 30
ALONE = Fields(0, None, 1)  # (picture, label)
PAIRS = Fields(0, 1, 2, labelled=3)  # (coarse, the teacher's view, label, whether it has one)


def draw(seed):
    """(coarse, sharp, y) of the source and of its test; (coarse, y) of the target and its test."""
    g = torch.Generator().manual_seed(seed)
    digits = load_digits()
    sharp = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    y = torch.tensor(digits.target)
    order = torch.randperm(len(y), generator=g)
    sharp, y = sharp[order], y[order]

    def see(gain, noise):
        coarse = F.avg_pool2d(sharp, 2)
        return gain * coarse + noise * torch.randn(coarse.shape, generator=g)

    bright, dark = see(1.0, 0.1), see(0.6, 0.1)
    source = bright[:SOURCE], sharp[:SOURCE], y[:SOURCE]
    middle = SOURCE + TARGET
    target = dark[SOURCE:middle], y[SOURCE:middle]
    test = bright[middle:], sharp[middle:], y[middle:]
    return source, test, target, (dark[middle:], y[middle:])


class Batches:
    """Shuffled batches, `steps` of them an epoch whatever the number of samples."""

    def __init__(self, tensors, steps):
        self.tensors = tensors
        self.steps = steps

    def __len__(self):
        return self.steps

    def __iter__(self):
        for _ in range(self.steps):
            rows = torch.randperm(len(self.tensors[0]))[:BATCH]
            yield tuple(tensor[rows] for tensor in self.tensors)


def network(seed):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveMaxPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 10),
    )


def accuracy(model, data):
    with torch.no_grad():
        return 100 * (model.eval()(data[0]).argmax(1) == data[1]).float().mean().item()


def one_seed(seed, labels, steps):
    """{row: accuracy}, on the source and on the target."""
    (coarse, sharp, y), (coarse_test, sharp_test, y_test), target, target_test = draw(seed)
    test = coarse_test, y_test
    few = slice(None, labels)
    has_label = torch.arange(len(y)) < labels
    fit = FitConfig(lr=1e-3, quiet=True)

    def on_labels(view, answers, start=None):
        model = copy.deepcopy(start) if start else network(seed)
        torch.manual_seed(seed)
        train_with_prior(
            model, Batches((view, answers), steps), F.cross_entropy, fields=ALONE, fit=fit
        )
        return model

    def taught(teacher, view):
        student = network(seed)
        torch.manual_seed(seed)
        distill(
            student,
            teacher,
            Batches((coarse, view, y, has_label), steps),
            F.cross_entropy,
            pairs=[("6", "6")],  # the networks' answers
            criterion=OutputLoss("classes", temperature=2.0),
            fields=PAIRS,
            fit=fit,
        )
        return student

    teacher = on_labels(sharp[few], y[few])
    twin = on_labels(coarse[few], y[few])
    by_sharp = taught(teacher, sharp)
    tuned = {
        "target, without the teacher": on_labels(*target, start=twin),
        "target, with the teacher": on_labels(*target, start=by_sharp),
    }
    return {
        "teacher, sharp pictures": accuracy(teacher, (sharp_test, y_test)),
        "student, on the labels": accuracy(twin, test),
        "control: taught by one that sees no more": accuracy(taught(twin, coarse), test),
        "control: taught by another digit's sharp view": accuracy(
            taught(teacher, sharp.roll(1, 0)), test
        ),
        "student, taught on all pairs": accuracy(by_sharp, test),
        "student, on all 900 labels": accuracy(on_labels(coarse, y), test),
        "target, from nothing": accuracy(on_labels(*target), target_test),
    } | {name: accuracy(model, target_test) for name, model in tuned.items()}


def main(seeds=5, steps=500, labels=(40, 900)):
    """Prints and returns {labels: {row: [accuracy a seed]}}."""
    table = {}
    for count in labels:
        runs = [one_seed(seed, count, steps) for seed in range(seeds)]
        table[count] = {row: [run[row] for run in runs] for row in runs[0]}
        print(f"{count} labels of {SOURCE} pairs")
        for row, values in table[count].items():
            t = torch.tensor(values)
            print(f"    {row:46} {t.mean():5.1f} % ± {t.std() if seeds > 1 else 0:.1f}")
    return table


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--labels", type=int, nargs="+", default=(40, 900))
    main(**vars(parser.parse_args()))
