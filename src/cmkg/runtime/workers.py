"""Distributes work over the cores of one machine: rendering, packing, checking."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from ..errors import InputError

T = TypeVar("T")
THREAD_COUNTS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def core_count() -> int:
    """Returns the number of cores this process may use; without affinity, all of the machine's."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS and Windows
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def process_map(
    function: Callable[..., T], jobs: Iterable[tuple[Any, ...]], workers: int
) -> Iterator[T]:
    """Yields function(*job) for each job, in order, from `workers` processes of one thread each.

    The processes end with this one, however it ends; the first error cancels all pending jobs.
    """
    context = multiprocessing.get_context("spawn")  # a forked child would inherit locked threads
    with (
        _single_threaded_children(),
        ProcessPoolExecutor(workers, context, initializer=_use_one_thread) as pool,
    ):
        futures = [pool.submit(function, *job) for job in jobs]
        try:
            for future in futures:
                yield future.result()
        except KeyboardInterrupt:  # started jobs run again on resuming, so do not wait for them
            for process in list((pool._processes or {}).values()):
                process.kill()
            pool.shutdown(cancel_futures=True)
            raise
        except BrokenProcessPool:
            raise InputError(
                "a worker process was ended from outside (killed, or no memory left?): start the "
                "same command again, with fewer --workers"
            ) from None
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


@contextmanager
def _single_threaded_children() -> Iterator[None]:
    """Limits processes started inside to one BLAS thread, to avoid contention for the cores."""
    before = {name: os.environ.get(name) for name in THREAD_COUNTS}
    os.environ.update(dict.fromkeys(THREAD_COUNTS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value


def _use_one_thread() -> None:
    import cv2

    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl+C reaches all processes: the parent ends its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Ends this worker when its parent ends, since a killed parent cannot tell it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)
