import math
import os

import pytest

from cmkg.runtime.workers import core_count, process_map


def test_cores_are_counted_where_the_system_knows_no_affinity(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert core_count() == 7
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert core_count() == 1


@pytest.mark.long
def test_results_come_in_order_and_an_error_reaches_the_caller():
    before = os.environ.get("OMP_NUM_THREADS")
    assert list(process_map(math.sqrt, [(9,), (4,), (1,)], 2)) == [3, 2, 1]
    assert os.environ.get("OMP_NUM_THREADS") == before
    with pytest.raises(ValueError, match="domain|nonnegative"):
        list(process_map(math.sqrt, [(9,), (-1,)], 1))
