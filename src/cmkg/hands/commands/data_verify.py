"""`cmkg data verify`: checks every file and field of a dataset and lists all errors."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from ...errors import InputError
from ...runtime.checks import expect_from_zero
from ...runtime.files import read_file
from ...runtime.progress import Bar
from ...runtime.text import printable
from ...runtime.workers import core_count, process_map
from ..datasets.label_checks import grouped
from ..datasets.sample import Recording
from ..stages.stage_settings import Flat
from ..stages.which_dataset import Which, open_dataset

CHUNK = 64


@dataclass(frozen=True)
class Verify:
    """Check every file and field of a dataset and list all errors."""

    which: Annotated[Which, Flat]
    workers: int = 0
    """Number of processes; 0 = one per core."""

    def __post_init__(self) -> None:
        expect_from_zero(self, "workers")


def collect_findings(checks: Iterable[Callable[[], Any]]) -> list[str]:
    """The findings of all checks; a check returns sentences or raises one."""
    findings: list[str] = []
    for check in checks:
        try:
            outcome = check()
        except InputError as error:
            findings.append(str(error))
        else:
            findings += outcome if isinstance(outcome, list) else []
    return findings


def check_items(dataset: Recording, first: int, last: int) -> list[str]:
    """The errors in the samples [first, last)."""
    return collect_findings(check for i in range(first, last) for check in dataset.item_checks(i))


def run(config: Verify) -> None:
    """Prints all errors.

    Raises:
        InputError: the dataset has errors.
    """
    dataset = open_dataset(config.which)
    findings: list[str] = []
    facts: dict[str, Any] = {}
    try:
        count, facts = len(dataset), dataset.describe()
    except InputError as error:
        if not Path(config.which.root).is_dir():
            raise
        findings, count = [str(error)], dataset.checked_count()
    findings += collect_findings(dataset.file_checks())
    jobs = [(dataset, at, min(at + CHUNK, count)) for at in range(0, count, CHUNK)]
    workers = config.workers or core_count()
    alone = len(jobs) <= 2 or workers == 1
    results = (check_items(*job) for job in jobs)
    with Bar("verify", len(jobs), per_step=CHUNK) as advance:
        for more in results if alone else process_map(check_items, jobs, workers):
            findings += more
            advance()
    findings += same_pictures(dataset, count)
    findings = list(dict.fromkeys(findings))  # every sample reports a broken label file
    kinds = grouped(findings)
    for sentence in kinds:
        print(printable(sentence))
    part = "" if "subset" not in facts else f" (a subset: {facts['subset']})"
    if kinds:
        raise InputError(
            f"{config.which.root}: {len(findings):,} finding(s) in {count:,} samples{part}, of "
            f"{len(kinds)} kind(s), listed above"
        )
    good = "every file and field is as expected"
    print(printable(f"{config.which.root}: {count:,} samples{part}, {good}"))


def same_pictures(dataset: Recording, count: int) -> list[str]:
    """Pictures whose files hold the same bytes under different names."""
    by_size: dict[int, list[Path]] = {}
    for i in range(count):
        try:
            path = dataset.files(i)[0]
        except InputError:  # reported by the sample's own checks
            continue
        if path.is_file():
            by_size.setdefault(path.stat().st_size, []).append(path)
    first: dict[str, Path] = {}
    findings = []
    alike = (path for paths in by_size.values() if len(set(paths)) > 1 for path in paths)
    for path in alike:
        digest = hashlib.blake2b(read_file(path, "a picture")).hexdigest()
        if first.setdefault(digest, path) != path:
            findings.append(
                f"{path}: the same picture as {first[digest].name}, under labels of its own; "
                "expected each picture once"
            )
    return findings


SETTINGS = Verify
