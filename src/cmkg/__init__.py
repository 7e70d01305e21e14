"""cmkg: cross-modal knowledge generalization (Zhao et al., CVPR 2020) for any network.

It transfers what a model learned from a superior modality in one dataset to datasets that only have
a weak one, with a full application to 3D hand pose. Names load on first use, so that `cmkg --help`
needs no torch.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from .version import __version__ as __version__

# Disable telemetry. onnxruntime would start it on import: an identifier on disk, a DNS lookup.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

if TYPE_CHECKING:
    from .batch import Batch as Batch
    from .batch import Fields as Fields
    from .distillation.criteria import FeatureLoss as FeatureLoss
    from .distillation.criteria import OutputLoss as OutputLoss
    from .distillation.distiller import Distiller as Distiller
    from .distillation.features import FeatureTap as FeatureTap
    from .distillation.losses import DistillationLoss as DistillationLoss
    from .distillation.losses import activation_loss as activation_loss
    from .distillation.losses import attention_loss as attention_loss
    from .distillation.losses import distillation_loss as distillation_loss
    from .distillation.losses import regression_loss as regression_loss
    from .distillation.pairing import Pair as Pair
    from .distillation.pairing import layers_of as layers_of
    from .distillation.pairing import pair_layers as pair_layers
    from .distillation.pairing import pairing_table as pairing_table
    from .errors import Diverged as Diverged
    from .errors import InputError as InputError
    from .hands.inference.hand import Hand as Hand
    from .hands.inference.hand import Thresholds as Thresholds
    from .hands.inference.hand_result import HandResult as HandResult
    from .hands.inference.tracker import Tracker as Tracker
    from .own_units import in_own_units as in_own_units
    from .own_units import in_plain_units as in_plain_units
    from .prior.attach import Attachment as Attachment
    from .prior.hub import SharedPrior as SharedPrior
    from .prior.learner import MetaConfig as MetaConfig
    from .prior.learner import PriorLearner as PriorLearner
    from .prior.make import fisher as fisher
    from .prior.make import merged as merged
    from .prior.meta_gradient import closed_form_gradient as closed_form_gradient
    from .prior.meta_gradient import unrolled_gradient as unrolled_gradient
    from .prior.parameters import fingerprint as fingerprint
    from .prior.prior import Prior as Prior
    from .training.calls import Learned as Learned
    from .training.calls import distill as distill
    from .training.calls import learn_prior as learn_prior
    from .training.calls import train_with_prior as train_with_prior
    from .training.fit import FitConfig as FitConfig
    from .training.preflight import Split as Split
    from .training.preflight import preflight as preflight

_MODULES = {
    "batch": ("Batch", "Fields"),
    "distillation.criteria": ("FeatureLoss", "OutputLoss"),
    "distillation.distiller": ("Distiller",),
    "distillation.features": ("FeatureTap",),
    "distillation.losses": (
        "DistillationLoss",
        "activation_loss",
        "attention_loss",
        "distillation_loss",
        "regression_loss",
    ),
    "distillation.pairing": ("Pair", "layers_of", "pair_layers", "pairing_table"),
    "errors": ("Diverged", "InputError"),
    "hands.inference.hand": ("Hand", "Thresholds"),
    "hands.inference.hand_result": ("HandResult",),
    "hands.inference.tracker": ("Tracker",),
    "own_units": ("in_own_units", "in_plain_units"),
    "prior.attach": ("Attachment",),
    "prior.hub": ("SharedPrior",),
    "prior.learner": ("MetaConfig", "PriorLearner"),
    "prior.make": ("fisher", "merged"),
    "prior.meta_gradient": ("closed_form_gradient", "unrolled_gradient"),
    "prior.parameters": ("fingerprint",),
    "prior.prior": ("Prior",),
    "training.calls": ("Learned", "distill", "learn_prior", "train_with_prior"),
    "training.fit": ("FitConfig",),
    "training.preflight": ("Split", "preflight"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f".{_HOME[name]}", __name__), name)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("cmkg"):
            raise
        raise ModuleNotFoundError(
            f"cmkg.{name} needs {error.name}, which is not installed: pip install 'cmkg[train]'; "
            "where no GPU is there, torch's CPU build is far smaller",
            name=error.name,
        ) from None


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
