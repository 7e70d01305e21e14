"""The studies reported in docs/study.md: each is `python -m studies.<name>`.

They import the package, never the other way round, and are not installed with it.
"""
