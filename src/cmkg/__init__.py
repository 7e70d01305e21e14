"""cmkg: cross-modal knowledge generalization (Zhao et al., CVPR 2020) for any network, and for 3D hand pose."""

from .features import FeatureTap
from .losses import activation_loss, attention_loss, distillation_loss, regression_loss
from .meta import closed_form_gradient, unrolled_gradient
from .prior import Prior, fingerprint
from .steps import distil_step, meta_step, supervised_step

__version__ = "0.1.0"
__all__ = [
    "FeatureTap", "Prior", "activation_loss", "attention_loss", "closed_form_gradient", "distil_step",
    "distillation_loss", "fingerprint", "meta_step", "regression_loss", "supervised_step", "unrolled_gradient",
]  # fmt: skip
