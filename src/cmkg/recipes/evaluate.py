"""`cmkg evaluate`: a student's weights on a packed set: EPE, AUC 20-50, PCK, and its predictions."""

from dataclasses import dataclass

from .. import engine
from ..engine import Precision
from ..hands.datasets.packed import Packed
from .common import at_least_one, predict, save_predictions, score
from .target import load_start


@dataclass(frozen=True)
class Evaluate:
    weights: str = "runs/target/target.safetensors"
    data: str = "data/target-test"
    out: str = "runs/evaluate"
    student: str = "runs/student"
    """Folder of the source student: its architecture."""
    source: str = ""
    """Give the source's packed set when the weights were trained there: predictions change to `data`'s bone convention."""
    convention: str = ""
    """Packed set whose bone lengths are the target's convention (its training split); empty = `data`."""
    turns_deg: tuple[float, ...] = (0.0,)
    """A test prediction is the mean over pictures turned by these angles; (0,) is the paper's."""
    precision: Precision = "auto"

    def __post_init__(self):
        at_least_one(self, "turns_deg")


def run(config: Evaluate):
    run = engine.Run(config.out, config)
    if run.result:
        return run.result
    fabric, packed = engine.launch(config.precision), Packed(config.data)
    convention = Packed(config.convention) if config.convention else packed
    model, settings = load_start(
        config.weights, config.student, config.source or config.convention or config.data, convention
    )
    predicted = predict(model.to(fabric.device), packed, settings["px"], fabric, turns_deg=config.turns_deg)
    save_predictions(run.folder / "predictions.npz", *predicted)
    return run.finish(score(*predicted))
