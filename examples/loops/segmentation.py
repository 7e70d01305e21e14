"""Dense labels: a network that sees depth teaches one that sees pictures, class by pixel.

python examples/loops/segmentation.py
"""

import torch
from common import plain_loop, start
from torch import nn
from torch.nn import functional as F

from cmkg import Distiller, Fields, MetaConfig, PriorLearner

FIELDS = Fields("picture", "depth", "classes")


def network(channels, seed):
    torch.manual_seed(seed)

    def block(a, b, stride):
        return nn.Sequential(nn.Conv2d(a, b, 3, stride, 1), nn.BatchNorm2d(b), nn.ReLU())

    up = nn.Upsample(scale_factor=4, mode="bilinear")
    return nn.Sequential(block(channels, 8, 2), block(8, 16, 2), nn.Conv2d(16, 5, 1), up)


def batches(count=6):
    g = torch.Generator().manual_seed(0)
    for _ in range(count):
        depth = torch.rand(4, 1, 32, 32, generator=g)
        picture = depth + 0.5 * torch.randn(4, 3, 32, 32, generator=g)
        yield {"picture": picture, "depth": depth, "classes": (5 * depth[:, 0]).long()}


def distil(folder, epochs):
    student, teacher = network(3, 0), network(1, 1)
    settings = {"loss": F.cross_entropy, "attention_weight": 1.0, "fields": FIELDS}
    distiller = Distiller(student, teacher, next(batches()), **settings)
    learner = PriorLearner(distiller, MetaConfig(alpha=1e-3, beta=1.0))
    optimizer = torch.optim.Adam(distiller.parameters(), 1e-2)
    return plain_loop(folder, epochs, batches, distiller, learner, optimizer)


def main(folder):
    student, prior = distil(folder, 2)
    optimizer = torch.optim.SGD(student.parameters(), 1e-2)  # fine-tuned, held around its weights
    with prior.floored().centred(student).attach(optimizer, student) as handle:
        for batch in batches():
            optimizer.zero_grad()
            F.cross_entropy(student(batch["picture"]), batch["classes"]).backward()
            optimizer.step()
    print(f"{prior}, {handle.steps} steps on the target")


if __name__ == "__main__":
    start(main)
