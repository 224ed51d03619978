"""The limits of the machine, measured beside the contestants, as contestants.

`MemoryLimit` moves the bytes an operation must move, reading its inputs once and writing its
output once; `ArithmeticLimit` does one exponential per logit and nothing else, inside L1. No
implementation can beat the slower of the two. For a linear layer the limit is the bare product.
"""

import ctypes
import os
from itertools import product
from time import perf_counter

import numpy as np
from harness import OPERATIONS
from native import load
from peers import Peer

ISAS = ("generic", "avx2", "avx512")  # as in limits.c
SMALLEST = 4096  # elements; with fewer the limit is the cost of a call


def _library() -> ctypes.CDLL:
    library = load("limits.c", "limits_loops.inc")
    flag, address, size = ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t
    for name, result, arguments in (
        ("limits_best_isa", flag, []),
        ("limits_has_openmp", flag, []),
        ("limits_copy", None, [flag, address, address, size, flag, flag]),
        ("limits_read", ctypes.c_uint32, [flag, address, size, flag]),
        ("limits_exp", None, [flag, flag, size, flag]),
        ("limits_exp_f32", None, [flag, address, address, size]),
        ("limits_exp_f64", None, [flag, address, address, size]),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def _fastest(calls):
    """The call that ran fastest in a trial of all of them, in turns."""
    best = [float("inf")] * len(calls)
    begin, turns = perf_counter(), 0
    while turns < 7 or (turns < 50 and perf_counter() - begin < 0.2):
        for k, call in enumerate(calls):
            start = perf_counter()
            call()
            best[k] = min(best[k], perf_counter() - start)
        turns += 1
    return calls[best.index(min(best))]


class Limit(Peer):
    kind = "limit"

    def __init__(self, threads):
        self.library = _library()
        best, forced = self.library.limits_best_isa(), os.environ.get("SOFTMAX_FAST_ISA")
        # On AArch64 NEON is what the compiler makes of the generic loops.
        self.isa = min(best, ISAS.index(forced)) if forced in ISAS else best
        self.nothing = lambda: self.library.limits_copy(self.isa, None, None, 0, 0, 1)
        self.thread_counts = {1, threads} if self.library.limits_has_openmp() else {1}

    @classmethod
    def has(cls, operation):
        return hasattr(cls, OPERATIONS[operation].traffic)

    def versions(self):
        return {"instruction set": ISAS[self.isa], "threads": str(max(self.thread_counts))}

    def prepare(self, operation, arrays):
        traffic = OPERATIONS[operation].traffic
        if traffic != "product" and arrays.x.size < SMALLEST:
            return None
        return getattr(self, traffic)(arrays)


class MemoryLimit(Limit):
    """A copy of the logits to ``out``, or a read of the inputs; the fastest of streaming and plain
    stores, of one thread and all."""

    name = "memory limit"

    def copy(self, a):
        copy, size = self.library.limits_copy, a.x.nbytes
        source, target = a.x.ctypes.data, a.out.ctypes.data
        return _fastest(
            [
                lambda streaming=streaming, threads=threads: copy(
                    self.isa, source, target, size, streaming, threads
                )
                for streaming, threads in product((0, 1), self.thread_counts)
            ]
        )

    def read(self, a):
        # The targets of the binary loss are as large as its logits; class indices do not count.
        inputs = [v for v in (a.x, a.targets) if v.dtype == a.x.dtype]
        read = self.library.limits_read
        spans = [(v.ctypes.data, v.nbytes) for v in inputs]
        return _fastest(
            [
                lambda threads=threads: [
                    read(self.isa, source, size, threads) for source, size in spans
                ]
                for threads in self.thread_counts
            ]
        )

    read_both = read

    def read_both_and_write(self, a):
        """The copy reads one of the two."""
        copy, read = self.copy(a), self.library.limits_read
        source, size = a.targets.ctypes.data, a.targets.nbytes

        def both(threads):
            copy()
            read(self.isa, source, size, threads)

        return _fastest([lambda n=n: both(n) for n in self.thread_counts])

    def product(self, a):
        return lambda: np.matmul(a.features, a.weights.T, out=a.out)

    def wrong(self, case, a, logs, returned):
        if isinstance(returned, list):
            words = a.x.reshape(-1).view(np.uint32)
            return None if returned[0] == int(words.sum(dtype=np.uint32)) else "wrong sum"
        if returned is None:
            return None if np.array_equal(a.x, a.out) else "wrong copy"
        return None


class ArithmeticLimit(Limit):
    """As many exponentials as there are logits, shared by the threads, each within its own L1.

    A divergence has two arrays of them.
    """

    name = "exp limit"

    def copy(self, a, arrays=1):
        loop, is_f64, size = self.library.limits_exp, a.x.dtype == np.float64, arrays * a.x.size
        return _fastest(
            [
                lambda threads=threads: loop(self.isa, is_f64, size, threads)
                for threads in self.thread_counts
            ]
        )

    read = copy

    def read_both(self, a):
        return self.copy(a, arrays=2)

    read_both_and_write = read_both

    def product(self, a):
        return None

    def wrong(self, case, a, logs, returned):
        x = np.linspace(-20, 0, 4096, dtype=np.result_type(a.x.dtype, np.float32))
        y = np.empty_like(x)
        exp = getattr(self.library, f"limits_exp_f{8 * x.itemsize}")
        exp(self.isa, x.ctypes.data, y.ctypes.data, x.size)
        error = np.max(np.abs(y / np.exp(x) - 1)) / np.finfo(x.dtype).eps
        return None if error < 4 else f"exp is off by {error:.3g} epsilon"


class NumPyExp(Peer):
    """`np.exp` into a fresh array: a yardstick for the cost of a call on a tiny one."""

    name = "np.exp"
    kind = "yardstick"
    packages = ("numpy",)

    def softmax_fresh(self, a):
        exp, x = np.exp, a.x
        return lambda: exp(x)

    def wrong(self, case, a, logs, returned):
        return None


LIMITS = (MemoryLimit, ArithmeticLimit)
