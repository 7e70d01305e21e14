"""Lightning, manual optimisation: the target, with a prior around its optimiser.

python examples/loops/lightning_manual.py
"""

import os

import lightning
import torch
from common import loader, network, start

from cmkg import Prior


class Target(lightning.LightningModule):
    automatic_optimization = False

    def __init__(self, prior):
        super().__init__()
        self.net, self.prior = network(3, 0), prior

    def training_step(self, batch, _):
        x, _, y = batch
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward((self.net(x) - y).square().mean())
        optimizer.step()

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.net.parameters(), 1e-2)
        self.handle = self.prior.attach(optimizer, self.net)
        return optimizer


def train(folder, epochs, prior):
    """Goes on from the folder's checkpoint, if it has one."""
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    path, target = f"{folder}/target.ckpt", Target(prior)
    trainer = lightning.Trainer(
        accelerator="cpu", max_epochs=epochs, enable_checkpointing=False, **quiet
    )
    trainer.fit(target, loader(), ckpt_path=path if os.path.exists(path) else None)
    trainer.save_checkpoint(path)
    target.handle.remove()
    return target.net, target.handle.steps


def main(folder):
    around = network(3, 1)  # or a learned prior: see lightning_automatic.py
    _, steps = train(folder, 2, Prior.constant(network(3, 0), 1e-2, centre=around))
    print(f"{steps} steps on the target")


if __name__ == "__main__":
    start(main)
