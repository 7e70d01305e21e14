"""Two recurrent networks: one that hears twelve channels teaches one that hears three.

python examples/loops/lstm.py
"""

import torch
from common import plain_loop, start
from torch import nn
from torch.nn import functional as F

from cmkg import Distiller, MetaConfig, Pair, PriorLearner


class Net(nn.Module):
    def __init__(self, channels, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.rnn, self.head = nn.LSTM(channels, 16, batch_first=True), nn.Linear(16, 4)

    def forward(self, x):  # (B, time, channels)
        output, _ = self.rnn(x)
        return self.head(output[:, -1])


def batches(count=6):
    g = torch.Generator().manual_seed(0)
    for _ in range(count):
        whole = torch.randn(8, 20, 12, generator=g)
        yield whole[..., :3], whole, torch.randint(0, 4, (8,), generator=g)


def distil(folder, epochs):
    pair = Pair("rnn", "rnn", layout=("BLC", "BLC"), output=0)  # an LSTM gives (output, state)
    student, teacher, example = Net(3, 0), Net(12, 1), next(batches())
    distiller = Distiller(student, teacher, example, [pair], F.cross_entropy, attention_weight=1.0)
    learner = PriorLearner(distiller, MetaConfig(alpha=1e-2, beta=1.0))
    optimizer = torch.optim.Adam(distiller.parameters(), 1e-2)
    return plain_loop(folder, epochs, batches, distiller, learner, optimizer)


def main(folder):
    student, prior = distil(folder, 2)
    target = Net(3, 0)  # theta_0
    optimizer = torch.optim.AdamW(target.parameters(), 1e-3)
    with prior.with_rms(1e-3).attach(optimizer, target) as handle:
        for x, _, y in batches():
            optimizer.zero_grad()
            F.cross_entropy(target(x), y).backward()
            optimizer.step()
    print(f"{prior}, {handle.steps} steps on the target")


if __name__ == "__main__":
    start(main)
