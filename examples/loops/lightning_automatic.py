"""Lightning, automatic optimisation: the distiller and the learner in training_step.

python examples/loops/lightning_automatic.py
"""

import os

import lightning
import torch
from common import loader, network, start

from cmkg import Distiller, MetaConfig, PriorLearner


class Source(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        example = next(iter(loader()))
        self.distiller = Distiller(network(3, 0), network(8, 1), example, attention_weight=0.0)
        self.learner = PriorLearner(self.distiller, MetaConfig(alpha=1e-2, beta=1.0))

    def training_step(self, batch, _):
        losses = self.distiller(batch)
        self.learner.update(batch, losses)  # before the backward that Lightning calls
        return sum(losses.values())

    def configure_optimizers(self):
        return torch.optim.Adam(self.distiller.parameters(), 1e-2)

    def on_save_checkpoint(self, checkpoint):
        checkpoint["learner"] = self.learner.state_dict()

    def on_load_checkpoint(self, checkpoint):
        self.learner.load_state_dict(checkpoint["learner"])


def trainer(epochs):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return lightning.Trainer(
        accelerator="cpu", max_epochs=epochs, enable_checkpointing=False, **quiet
    )


def distil(folder, epochs):
    """Goes on from the folder's checkpoint, if it has one."""
    path, source, fit = f"{folder}/source.ckpt", Source(), trainer(epochs)
    fit.fit(source, loader(), ckpt_path=path if os.path.exists(path) else None)
    fit.save_checkpoint(path)
    return source.distiller.student, source.learner.prior


def main(folder):
    _, prior = distil(folder, 2)
    print(f"{prior}, learned in two epochs")


if __name__ == "__main__":
    start(main)
