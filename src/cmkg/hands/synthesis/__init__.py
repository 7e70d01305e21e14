"""Synthetic data: rendered sets, look-alikes of a target, and writers of dataset layouts."""
