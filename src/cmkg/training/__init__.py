"""Training loops for any network: distillation, learning a prior, and training with one."""
