"""Renders run folders as tables, charts and self-contained pages. Computes no results."""
