"""The version of cmkg."""

__version__ = "0.2.0"
