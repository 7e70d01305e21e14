"""Saves, loads and shares priors through huggingface_hub's mixin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import ModelHubMixin, hf_hub_download

from ..runtime.cards import write_card
from .card import ABOUT_PRIOR, prior_facts
from .prior import Prior


class SharedPrior(ModelHubMixin, library_name="cmkg", tags=["cmkg"]):
    """A Prior that can be saved, loaded and shared like a Hugging Face model.

    Use SharedPrior(prior).save_pretrained(folder), .push_to_hub(name), and
    SharedPrior.from_pretrained(folder or name).prior.
    """

    FILE = "prior.safetensors"

    def __init__(self, prior: Prior) -> None:
        self.prior = prior

    def _save_pretrained(self, save_directory: Path) -> None:
        folder = Path(save_directory)
        self.prior.save(folder / self.FILE)
        title = "A prior learned by cross-modal distillation"
        write_card(folder / "README.md", title, prior_facts(self.prior), ABOUT_PRIOR)

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        **_: Any,
    ) -> SharedPrior:
        path = Path(model_id) / cls.FILE
        if not Path(model_id).is_dir():
            downloaded = hf_hub_download(
                model_id,
                cls.FILE,
                revision=revision,
                cache_dir=cache_dir,
                force_download=force_download,
                local_files_only=local_files_only,
                token=token,
            )
            path = Path(downloaded)
        return cls(Prior.load(path))
