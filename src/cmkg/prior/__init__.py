"""The learned prior: its value and files, meta-learning, and use with an optimizer."""
