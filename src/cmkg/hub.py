"""Priors through huggingface_hub's mixin: from a folder or from a hub."""

from pathlib import Path

from huggingface_hub import ModelHubMixin

from .cards import ABOUT_PRIOR, prior_facts, write_card
from .prior import Prior


class SharedPrior(ModelHubMixin, library_name="cmkg", tags=["cmkg"]):
    """A Prior that is saved, loaded and shared as models are:
    SharedPrior(prior).save_pretrained(folder), .push_to_hub(name),
    SharedPrior.from_pretrained(folder or name).prior."""

    FILE = "prior.safetensors"

    def __init__(self, prior):
        self.prior = prior

    def _save_pretrained(self, folder):
        self.prior.save(Path(folder) / self.FILE)
        write_card(
            Path(folder) / "README.md",
            "A prior learned by cross-modal distillation",
            prior_facts(self.prior),
            ABOUT_PRIOR,
        )

    @classmethod
    def _from_pretrained(
        cls, *, model_id, revision, cache_dir, force_download, local_files_only, token, **_
    ):
        path = Path(model_id) / cls.FILE
        if not Path(model_id).is_dir():
            from huggingface_hub import hf_hub_download

            path = hf_hub_download(
                model_id,
                cls.FILE,
                revision=revision,
                cache_dir=cache_dir,
                force_download=force_download,
                local_files_only=local_files_only,
                token=token,
            )
        return cls(Prior.load(path))
