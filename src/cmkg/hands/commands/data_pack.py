"""`cmkg data pack`: writes the packed set that training reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ...errors import InputError
from ...runtime.checks import expect_from_zero
from ...runtime.text import printable
from ..datasets.packed.pack import Shard, pack
from ..datasets.subset import expect_files
from ..stages.stage_settings import Flat
from ..stages.which_dataset import Which, open_dataset


@dataclass(frozen=True)
class Pack:
    """Write the packed set that training reads. An interrupted run is resumed."""

    which: Annotated[Which, Flat]
    out: str
    """Output folder of the packed set."""
    workers: int = 0
    """Number of processes; 0 = one per core."""
    shard: str = ""
    """i/n: pack only the i-th of n parts; `cmkg data merge` merges the parts into one set."""

    def __post_init__(self) -> None:
        expect_from_zero(self, "workers")


def run(config: Pack) -> None:
    """Writes a packed set."""
    dataset = open_dataset(config.which)
    expect_files(dataset, config.which.root)
    facts = dataset.describe()
    if facts.get("without_label", 0) == facts["count"]:
        raise InputError(
            f"{config.which.root}: no sample of this split has a label (joints_mm, joints_cm or "
            "joints_m); expected some"
        )
    part = Shard(dataset, config.shard) if config.shard else dataset
    written = pack(part, config.out, config.workers or None)
    bone = f"middle bone {written.bone_mm:.1f} mm on average"
    print(printable(f"{config.out}: {len(written)} samples, {bone}"))


SETTINGS = Pack
