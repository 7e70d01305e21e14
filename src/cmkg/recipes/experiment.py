from dataclasses import dataclass
@dataclass(frozen=True)
class Experiment:
    out: str = "runs/demo"
def run(c): pass
