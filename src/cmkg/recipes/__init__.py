"""One file per stage, each a frozen dataclass and an explicit loop: render, teacher, student,
distill, target, evaluate.

`experiment` chains them.
"""
