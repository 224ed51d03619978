"""What else runs while a call is timed: the situations of ``pipeline.py``."""

import gc
import multiprocessing
import threading
import time
from dataclasses import dataclass
from time import perf_counter

import numpy as np

CALLERS = 4


def _product(n):
    def prepare():
        b = np.full((n, n), 1 / n, np.float32)
        out = np.empty_like(b)
        return lambda: np.matmul(b, b, out=out)

    return prepare


def _torch_pool():
    import torch

    x = torch.zeros(1 << 20)
    return lambda: x.mul_(0.5)


@dataclass(frozen=True)
class Situation:
    """``before`` makes what is done, untimed, before each call; the rest is there all the time."""

    title: str
    before: object = None
    busy_processes: int = 0
    callers: int = 1


SITUATIONS = {
    "alone": Situation("alone"),
    "product300": Situation("after `b @ b`, 300×300", _product(300)),
    "product2000": Situation("after `b @ b`, 2000×2000", _product(2000)),
    "torch": Situation("after PyTorch used its pool", _torch_pool),
    "busy1": Situation("beside one busy process", busy_processes=1),
    "busy2": Situation("beside two busy processes", busy_processes=2),
    "callers": Situation("four Python threads at once", callers=CALLERS),
}


def _loop(call, before, seconds: float, times: list[float]) -> None:
    end = perf_counter() + seconds
    start = 0.0
    while start < end:
        if before:
            before()
        start = perf_counter()
        call()
        times.append(perf_counter() - start)


def loop(calls, name: str, seconds: float) -> np.ndarray:
    """Seconds of each call of a loop in a situation; a caller has each of ``calls``."""
    situation = SITUATIONS[name]
    before = situation.before and situation.before()
    times: list[list[float]] = [[] for _ in calls]
    gc_was_enabled = gc.isenabled()
    gc.disable()
    try:
        if len(calls) == 1:
            _loop(calls[0], before, seconds, times[0])
        else:
            threads = [
                threading.Thread(target=_loop, args=(call, before, seconds, own))
                for call, own in zip(calls, times, strict=True)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    finally:
        if gc_was_enabled:
            gc.enable()
    return np.concatenate([np.array(own) for own in times])


def _spin():
    while True:
        for _ in range(1_000_000):
            pass


class Busy:
    """Processes that take all the time they get; a context manager."""

    def __init__(self, number: int):
        context = multiprocessing.get_context("spawn")
        self.processes = [context.Process(target=_spin, daemon=True) for _ in range(number)]

    def __enter__(self):
        for process in self.processes:
            process.start()
        if self.processes:
            time.sleep(0.5)
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.terminate()
            process.join()
