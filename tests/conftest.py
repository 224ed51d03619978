import json
import os
import pathlib
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import softmax_fast
from softmax_fast import _core, cli

PACKAGE_PARENT = str(pathlib.Path(softmax_fast.__file__).resolve().parent.parent)
OWN_VARIABLES = (
    "SOFTMAX_FAST_ISA",
    "SOFTMAX_FAST_NUM_THREADS",
    "SOFTMAX_FAST_ADAPTIVE",
    "SOFTMAX_FAST_KEEP_RESULTS",
    "OMP_NUM_THREADS",
    "OMP_THREAD_LIMIT",
)

# Two threads are two, also while other tests hold the cores; test_adaptive.py is about the choice.
_core.set_adaptive(False)

ISAS = tuple(_core.isas_supported())


@pytest.fixture(params=ISAS)
def isa(request):
    """Run with each instruction set this machine has; the automatic one comes back afterwards."""
    chosen = _core.isa()
    _core.set_isa(request.param)
    yield request.param
    _core.set_isa(chosen)


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    return np.dtype(request.param)


@pytest.fixture(params=[1, 2], ids=["1 thread", "2 threads"])
def n_threads(request):
    return request.param


def _run(arguments, env, timeout):
    variables = {k: v for k, v in os.environ.items() if k not in OWN_VARIABLES}
    path = [PACKAGE_PARENT, variables.get("PYTHONPATH", "")]
    variables["PYTHONPATH"] = os.pathsep.join(p for p in path if p)
    variables.update(env or {})
    done = subprocess.run(
        [sys.executable, *arguments],
        check=False,
        env=variables,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture
def run_python():
    """Run code in a fresh interpreter that finds the package under test; returns its output."""
    return lambda code, *, env=None, timeout=60: _run(["-c", textwrap.dedent(code)], env, timeout)


@pytest.fixture
def run_script(tmp_path):
    """As ``run_python``, from a file: the spawn method of multiprocessing imports it again."""

    def run(code, *, env=None, timeout=60):
        script = tmp_path / "script.py"
        script.write_text(code)
        return _run([str(script)], env, timeout)

    return run


@pytest.fixture
def threads_setting():
    """Put the process-wide number of threads back after the test."""
    yield
    softmax_fast.set_num_threads(None)


@pytest.fixture
def run(capsys):
    """Call the command line in this process; returns exit code, standard output and error."""

    def call(*arguments):
        code = cli.main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def evaluate(run):
    """The numbers of ``evaluate --json``."""

    def call(*arguments):
        code, out, err = run("evaluate", *arguments, "--json")
        assert (code, err) == (0, "")
        return json.loads(out)

    return call
