"""softmax_fast beside NumPy's formula, with pytest-benchmark: ``pytest benchmarks``.

Each result is compared with the float64 oracle before it is timed. `compare.py` sets it beside all
the peers and the limits of the machine.
"""

import harness
import pytest
from harness import Case
from peers import NumPyFormula, SoftmaxFast

pytest.importorskip("pytest_benchmark")

OPERATIONS = ("softmax", "softmax_fresh", "log_softmax", "logsumexp", "softmax_loss")
SHAPES = ((1, 10), (32, 10), (64, 1000), (16384, 100), (1, 128256))
THREADS = harness.usable_cpus()


@pytest.fixture(scope="module", params=(SoftmaxFast, NumPyFormula), ids=lambda cls: cls.name)
def implementation(request):
    return request.param(THREADS)


@pytest.mark.parametrize("dtype", ("float32", "float64"))
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
@pytest.mark.parametrize("operation", OPERATIONS)
def test_speed(benchmark, implementation, operation, shape, dtype):
    case = Case(operation, shape, -1, dtype)
    arrays = harness.make_arrays(case)
    call = implementation.prepare(operation, arrays)
    assert implementation.wrong(case, arrays, harness.reference(case, arrays), call()) is None
    benchmark.group = str(case)
    benchmark.extra_info["elements"] = case.elements
    benchmark(call)
