"""Chains of stages: `cmkg run demo`, `real`, and the paper's tables."""
