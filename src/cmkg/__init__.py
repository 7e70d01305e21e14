"""cmkg: cross-modal knowledge generalization (Zhao et al., CVPR 2020) for any network, and for
3D hand pose."""

from .families import fisher, merged, transferred
from .features import FeatureTap
from .losses import (
    DistillationLoss,
    activation_loss,
    attention_loss,
    distillation_loss,
    regression_loss,
)
from .meta import closed_form_gradient, unrolled_gradient
from .pairing import layers_of, pair_layers
from .prior import Prior, fingerprint
from .steps import distil_step, meta_step, supervised_step
from .training import Fields, distill, learn_prior, train_with_prior

__version__ = "0.1.0"
__all__ = [
    "DistillationLoss",
    "FeatureTap",
    "Fields",
    "Prior",
    "activation_loss",
    "attention_loss",
    "closed_form_gradient",
    "distil_step",
    "distill",
    "distillation_loss",
    "fingerprint",
    "fisher",
    "layers_of",
    "learn_prior",
    "merged",
    "meta_step",
    "pair_layers",
    "regression_loss",
    "supervised_step",
    "train_with_prior",
    "transferred",
    "unrolled_gradient",
]
