"""LoRA through peft: what depth teaches goes into the adapters; the base does not move.

python examples/loops/lora.py
"""

import torch
from common import plain_loop, start
from peft import LoraConfig, get_peft_model
from torch import nn

from cmkg import Distiller, MetaConfig, PriorLearner


class Net(nn.Module):
    def __init__(self, inputs, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.body, self.act, self.head = nn.Linear(inputs, 16), nn.Tanh(), nn.Linear(16, 2)

    def forward(self, x):
        return self.head(self.act(self.body(x)))


def adapted():
    net = Net(3, 0)  # pretrained, as far as peft is concerned
    return get_peft_model(net, LoraConfig(r=2, target_modules=["body", "head"]))


def batches(count=6):
    g = torch.Generator().manual_seed(0)
    for _ in range(count):
        x = torch.randn(8, 8, generator=g)
        yield x[:, :3], x, x[:, :2] * x[:, 2:4]


def distil(folder, epochs):
    student, teacher = adapted(), Net(8, 1)
    distiller = Distiller(student, teacher, next(batches()), [("act", "act")])
    learner = PriorLearner(distiller, MetaConfig(alpha=1e-2, beta=1.0))  # phi of lora_A, lora_B
    optimizer = torch.optim.AdamW([p for p in student.parameters() if p.requires_grad], 1e-2)
    return plain_loop(folder, epochs, batches, distiller, learner, optimizer)


def main(folder):
    _, prior = distil(folder, 2)
    target = adapted()
    base = target.get_base_model().body.base_layer.weight.clone()
    optimizer = torch.optim.AdamW([p for p in target.parameters() if p.requires_grad], 1e-3)
    with prior.with_rms(1e-3).attach(optimizer, target) as handle:
        for x, _, y in batches():
            optimizer.zero_grad()
            (target(x) - y).square().mean().backward()
            optimizer.step()
    assert torch.equal(base, target.get_base_model().body.base_layer.weight)
    print(f"{prior}, {handle.steps} steps on the target")


if __name__ == "__main__":
    start(main)
