"""What docs/study.md reports: each study is `python -m studies.<name>`, on a finished `cmkg run`.

They import the package, never the other way round, and are not installed with it.
"""
