"""The Hugging Face Trainer: a vision transformer that sees pictures, a CNN that sees depth.

python examples/loops/trainer.py
"""

from pathlib import Path

import torch
from common import cnn, pictures, start
from torch.nn import functional as F
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification

from cmkg import Distiller, Fields, MetaConfig, Pair, PriorLearner

VIT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 16}
FIELDS = Fields({"pixel_values": "rgb"}, "depth", "labels")
PAIR = Pair("vit.layers.1", "3", layout=("BNC", "BCHW"), drop_tokens=1)  # 16 patches, 4 x 4 places
SETTINGS = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "save_strategy": "epoch"}
SETTINGS |= {"remove_unused_columns": False, "lr_scheduler_type": "constant"}


def loss(output, labels):  # of a ModelOutput
    return F.cross_entropy(output.logits, labels)


def new_distiller():
    torch.manual_seed(0)
    student = ViTForImageClassification(ViTConfig(**VIT, patch_size=4, num_labels=3))
    example = torch.utils.data.default_collate(pictures()[:4])
    return Distiller(student, cnn(), example, [PAIR], loss, attention_weight=1.0, fields=FIELDS)


class Distilling(Trainer):
    learner = None

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        losses = model(inputs)
        if self.learner is not None:
            self.learner.update(inputs, losses)
        return sum(losses.values())


def distil(folder, epochs):
    distiller, kept = new_distiller(), Path(folder) / "prior.pt"
    learner = PriorLearner(distiller, MetaConfig(alpha=1e-3, beta=1.0))
    arguments = TrainingArguments(str(folder), num_train_epochs=epochs, **SETTINGS)
    trainer = Distilling(distiller, arguments, train_dataset=pictures())
    trainer.learner = learner
    if kept.exists():
        learner.load_state_dict(torch.load(kept, weights_only=True))
    trainer.train(resume_from_checkpoint=kept.exists())
    torch.save(learner.state_dict(), kept)
    return distiller.student, learner.prior


def main(folder):
    _, prior = distil(folder, 2)
    target = Distiller(new_distiller().student, None, loss=loss, fields=FIELDS)
    optimizer = torch.optim.AdamW(target.parameters(), 1e-3)
    arguments = TrainingArguments(f"{folder}/target", **SETTINGS)
    with prior.with_rms(1e-3).attach(optimizer, target.student) as handle:
        trainer = Distilling(
            target, arguments, train_dataset=pictures(), optimizers=(optimizer, None)
        )
        trainer.train()
    print(f"{prior}, {handle.steps} steps on the target")


if __name__ == "__main__":
    start(main)
