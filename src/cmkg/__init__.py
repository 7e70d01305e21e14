"""cmkg: cross-modal knowledge generalization (Zhao et al., CVPR 2020) for any network.

What a model learned from a superior modality in one dataset, for datasets that only have a weak
one; whole for 3D hand pose. Names load when they are first used: `cmkg --help` needs no torch.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

# Nothing phones home. onnxruntime does from its import on: an identifier on disk, a name looked up.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

if TYPE_CHECKING:
    from .attachment import Attachment as Attachment
    from .batch import Batch as Batch
    from .batch import Fields as Fields
    from .criteria import FeatureLoss as FeatureLoss
    from .criteria import OutputLoss as OutputLoss
    from .distiller import Distiller as Distiller
    from .distiller import Pair as Pair
    from .errors import Diverged as Diverged
    from .errors import InputError as InputError
    from .evidence import Evidence as Evidence
    from .families import fisher as fisher
    from .families import merged as merged
    from .families import transferred as transferred
    from .features import FeatureTap as FeatureTap
    from .forecast import preflight as preflight
    from .hands.inference.hand import Hand as Hand
    from .hands.inference.hand import HandResult as HandResult
    from .hands.inference.hand import Thresholds as Thresholds
    from .hands.inference.tracker import Tracker as Tracker
    from .hub import SharedPrior as SharedPrior
    from .learner import MetaConfig as MetaConfig
    from .learner import PriorLearner as PriorLearner
    from .losses import DistillationLoss as DistillationLoss
    from .losses import activation_loss as activation_loss
    from .losses import attention_loss as attention_loss
    from .losses import distillation_loss as distillation_loss
    from .losses import regression_loss as regression_loss
    from .low_rank import LowRankPrior as LowRankPrior
    from .meta import closed_form_gradient as closed_form_gradient
    from .meta import unrolled_gradient as unrolled_gradient
    from .own_units import in_own_units as in_own_units
    from .own_units import in_plain_units as in_plain_units
    from .pairing import layers_of as layers_of
    from .pairing import pair_layers as pair_layers
    from .pairing import pairing_table as pairing_table
    from .prior import Prior as Prior
    from .prior import fingerprint as fingerprint
    from .training import FitConfig as FitConfig
    from .training import Learned as Learned
    from .training import distill as distill
    from .training import learn_prior as learn_prior
    from .training import train_with_prior as train_with_prior

__version__ = "0.2.0"
_MODULES = {
    "attachment": ("Attachment",),
    "batch": ("Batch", "Fields"),
    "criteria": ("FeatureLoss", "OutputLoss"),
    "distiller": ("Distiller", "Pair"),
    "errors": ("Diverged", "InputError"),
    "evidence": ("Evidence",),
    "families": ("fisher", "merged", "transferred"),
    "features": ("FeatureTap",),
    "forecast": ("preflight",),
    "hands.inference.hand": ("Hand", "HandResult", "Thresholds"),
    "hands.inference.tracker": ("Tracker",),
    "hub": ("SharedPrior",),
    "learner": ("MetaConfig", "PriorLearner"),
    "losses": (
        "DistillationLoss",
        "activation_loss",
        "attention_loss",
        "distillation_loss",
        "regression_loss",
    ),
    "low_rank": ("LowRankPrior",),
    "meta": ("closed_form_gradient", "unrolled_gradient"),
    "own_units": ("in_own_units", "in_plain_units"),
    "pairing": ("layers_of", "pair_layers", "pairing_table"),
    "prior": ("Prior", "fingerprint"),
    "training": ("FitConfig", "Learned", "distill", "learn_prior", "train_with_prior"),
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
