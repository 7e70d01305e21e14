"""Readers for external file formats, and integrity checks for packed and exported files."""
