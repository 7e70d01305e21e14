"""The Hugging Face Trainer: a vision transformer that sees pictures, a CNN that sees depth."""

from pathlib import Path

import torch
from common import start
from torch.nn import functional as F
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification
from vision import cnn, example, pictures

from cmkg import Distiller, Fields, MetaConfig, Pair, PriorLearner

VIT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 16}
FIELDS = Fields({"pixel_values": "rgb"}, "depth", "labels")
PAIR = Pair("vit.layers.1", "3", layout=("BNC", "BCHW"), drop_tokens=1)  # 16 patches, 4 x 4 places
SETTINGS = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "save_strategy": "epoch"}
SETTINGS |= {"remove_unused_columns": False, "lr_scheduler_type": "constant"}


class Distilling(Trainer):
    learner = None

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        losses = model(inputs)
        if self.learner is not None:
            self.learner.update(inputs, losses)
        return sum(losses.values())


def new_distiller(teacher):
    torch.manual_seed(0)
    student = ViTForImageClassification(ViTConfig(**VIT, patch_size=4, num_labels=3))
    task = {"loss": lambda output, labels: F.cross_entropy(output.logits, labels), "fields": FIELDS}
    return Distiller(student, teacher, example(), [PAIR], attention_weight=1.0, **task)


def distil(folder, epochs):
    distiller, kept = new_distiller(cnn()), Path(folder) / "prior.pt"
    arguments = TrainingArguments(str(folder), num_train_epochs=epochs, **SETTINGS)
    trainer = Distilling(distiller, arguments, train_dataset=pictures())
    trainer.learner = PriorLearner(distiller, MetaConfig(alpha=1e-3, beta=1.0))
    if kept.exists():
        trainer.learner.load_state_dict(torch.load(kept, weights_only=True))
    trainer.train(resume_from_checkpoint=kept.exists())
    torch.save(trainer.learner.state_dict(), kept)
    return distiller.student, trainer.learner.prior


def main(folder):
    (_, prior), target = distil(folder, 2), new_distiller(None)
    optimizers = torch.optim.AdamW(target.parameters(), 1e-3), None
    arguments = TrainingArguments(f"{folder}/target", **SETTINGS)
    with prior.with_rms(1e-3).attach(optimizers[0], target.student) as handle:
        Distilling(target, arguments, train_dataset=pictures(), optimizers=optimizers).train()
    print(f"{prior}, {handle.steps} steps on the target")


if __name__ == "__main__":
    start(main)
