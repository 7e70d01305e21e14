"""Run folders -> results.json and one self-contained page. Reads what is on disk, computes no
result."""
