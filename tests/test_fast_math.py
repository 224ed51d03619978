"""The kernels do not compile with flags that would break them."""

import pathlib
import shutil
import subprocess

import pytest

import softmax_fast

KERNELS = pathlib.Path(softmax_fast.__file__).parent / "kernels"

compilers = [name for name in ("gcc", "clang") if shutil.which(name)]
pytestmark = pytest.mark.skipif(not compilers, reason="neither gcc nor clang is here")


def compiled(compiler, source, *flags):
    command = [compiler, "-std=c11", "-fsyntax-only", *flags, str(KERNELS / source)]
    return subprocess.run(command, check=False, capture_output=True, text=True)


@pytest.mark.parametrize("compiler", compilers)
@pytest.mark.parametrize("flag", ["-ffast-math", "-Ofast", "-ffinite-math-only"])
def test_fast_math_is_refused(flag, compiler):
    sources = sorted(path.name for path in KERNELS.glob("isa_*.c"))
    assert "isa_generic.c" in sources
    for source in sources:
        done = compiled(compiler, source, flag)
        assert done.returncode != 0 and "fast-math" in done.stderr, (source, done.stderr)


@pytest.mark.parametrize("compiler", compilers)
def test_the_build_flags_are_not_refused(compiler):
    done = compiled(compiler, "isa_generic.c", "-O3", "-ffp-contract=off")
    assert done.returncode == 0, done.stderr
