"""Packed sets: the memory-mapped format that training reads."""
