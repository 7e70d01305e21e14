"""Sharp and degraded pictures: a teacher that sees 8 x 8 digits, a student that sees 4 x 4 noisy
ones.

Real measured data: scikit-learn's handwritten digits (1,797 scans). Source: 900 digits in both
resolutions. Target: 120 other digits, degraded with a darker, noisier sensor; no sharp version
exists. Test: the remaining 777, degraded alike.

    # about three minutes on two cores; accuracy over 5 seeds, with controls
    python examples/digits.py
"""

import argparse
import copy

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from cmkg import FitConfig, MetaConfig, Prior, learn_prior, train_with_prior

SIGMAS = (1e-4, 1e-3, 1e-2, 1e-1)


def pictures(seed):
    """(source, target, validation, test) as tensors: source (low, sharp, y), others (low, y)."""
    g = torch.Generator().manual_seed(seed)
    digits = load_digits()
    sharp, y = (
        torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16,
        torch.tensor(digits.target),
    )
    order = torch.randperm(len(y), generator=g)
    sharp, y = sharp[order], y[order]

    def degrade(x, gain, noise):
        return gain * F.avg_pool2d(x, 2) + noise * torch.randn(len(x), 1, 4, 4, generator=g)

    source, dark = degrade(sharp[:900], 1.0, 0.1), degrade(sharp[900:], 0.6, 0.15)
    return (
        (source, sharp[:900], y[:900]),
        (dark[:80], y[900:980]),
        (dark[80:120], y[980:1020]),
        (dark[120:], y[1020:]),
    )


class Batches:
    """Shuffled batches of some tensors, another order each epoch; it follows from torch's global
    seed."""

    def __init__(self, tensors, batch=32):
        self.tensors, self.batch = tensors, batch

    def __len__(self):
        return (len(self.tensors[0]) + self.batch - 1) // self.batch

    def __iter__(self):
        for rows in torch.randperm(len(self.tensors[0])).split(self.batch):
            yield tuple(t[rows] for t in self.tensors)


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


def tuned(theta, data, validation, priors, epochs, seed):
    """The model of the strength that is best on the validation block; the same number of tries
    for every family."""
    models = []
    for prior in priors:
        torch.manual_seed(seed)
        model = copy.deepcopy(theta)
        fit = FitConfig(epochs=epochs, lr=1e-3)
        train_with_prior(model, Batches(data), F.cross_entropy, prior, fit=fit)
        models.append(model)
    return max(models, key=lambda m: accuracy(m, validation))


def one_seed(seed, epochs):
    source, target, validation, test = pictures(seed)
    theta_0, teacher, student = network(seed), network(seed + 1000), network(seed)

    def train(model, data, n, prior=None):
        fit = FitConfig(epochs=n, lr=1e-3)
        return train_with_prior(model, Batches(data), F.cross_entropy, prior, fit=fit)

    train(teacher, source[1:], epochs)
    train(student, (source[0], source[2]), epochs)
    continued, distilled = copy.deepcopy(student), copy.deepcopy(student)
    train(continued, (source[0], source[2]), epochs)
    layers = [("1", "1"), ("3", "3")]  # the ReLUs' outputs
    phi = learn_prior(
        distilled,
        teacher,
        Batches(source),
        F.cross_entropy,
        theta_0=theta_0,
        pairs=layers,
        attention_weight=1.0,
        meta=MetaConfig(alpha=1e-2, beta=1.0),
        fit=FitConfig(epochs=epochs, lr=1e-3),
    ).prior

    def tune(start, priors):
        return tuned(start, target, validation, priors, 4 * epochs, seed)

    rows = {
        "source student, untouched": continued,
        "no regulariser": tune(theta_0, [None]),
        "l2, tuned": tune(theta_0, [Prior.constant(theta_0, s) for s in SIGMAS]),
        "prior, tuned": tune(theta_0, [phi.with_rms(s) for s in SIGMAS]),
        "control: phi permuted within layers": tune(
            theta_0, [phi.permuted(seed).with_rms(s) for s in SIGMAS]
        ),
        "fine-tuned source student": tune(continued, [None]),
        "fine-tuned distilled student": tune(distilled, [None]),
        "distilled student, prior around it": tune(
            distilled,
            [phi.floored().centred(dict(distilled.named_parameters())).with_rms(s) for s in SIGMAS],
        ),
    }
    found = {name: accuracy(model, test) for name, model in rows.items()}
    return {"teacher, sharp source digits": accuracy(teacher, source[1:])} | found


def main(seeds=5, epochs=15):
    """Prints and returns {row: [accuracy a seed]}."""
    runs = [one_seed(seed, epochs) for seed in range(seeds)]
    table = {name: [run[name] for run in runs] for name in runs[0]}
    for name, values in table.items():
        t = torch.tensor(values)
        print(f"{name:40} {t.mean():6.2f} % ± {t.std() if seeds > 1 else 0:.2f}")
    return table


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=15)
    main(**vars(parser.parse_args()))
