"""The kernels without Python: no compiler warns, and native/check_kernels.c passes.

Natively with every compiler found, with sanitizers, cross-compiled for 64-bit Arm (NEON) and for
big-endian s390x under qemu's user mode, for 32-bit x86, and for Windows with Mingw-w64 under Wine.
What is not installed is skipped; on Debian: gcc, clang, clang-16, gcc-aarch64-linux-gnu,
gcc-s390x-linux-gnu, libc6-dev-s390x-cross, qemu-user, gcc-i686-linux-gnu, libc6-dev-i386-cross,
gcc-mingw-w64-x86-64, wine64.
"""

import os
import pathlib
import platform
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

import softmax_fast
from softmax_fast import _core

KERNELS = pathlib.Path(softmax_fast.__file__).parent / "kernels"
SOURCES = sorted(KERNELS.rglob("*.c"))
CHECK = pathlib.Path(__file__).parent / "native" / "check_kernels.c"
FLAGS = ["-std=c11", "-O2", "-ffp-contract=off", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]
WINE = shutil.which("wine64") or shutil.which("wine") or shutil.which("/usr/lib/wine/wine64")
NATIVE = os.environ.get("CC", "cc")


@dataclass
class Target:
    """A compiler with its flags, what runs its programs, and what these have to name as passed."""

    compiler: str
    flags: str = ""
    runner: str = ""
    isas: tuple = ("generic",)

    def command(self):
        command = shlex.split(self.compiler)
        if sys.platform == "win32" or not shutil.which(command[0]):
            pytest.skip(f"{command[0]} is not installed")
        return [*command, *shlex.split(self.flags)]

    def run_by(self):
        runner = shlex.split(self.runner)
        if runner and not shutil.which(runner[0]):
            pytest.skip(f"{runner[0]} is not installed")
        return runner


NATIVELY = {
    "cc": Target(NATIVE, isas=_core.isas_supported()),
    "clang": Target("clang", isas=_core.isas_supported()),
    "clang-16": Target("clang-16", isas=_core.isas_supported()),
}
EMULATED = {
    "aarch64": Target("aarch64-linux-gnu-gcc", "-static", "qemu-aarch64", ("neon", "generic")),
    "s390x, big-endian": Target("s390x-linux-gnu-gcc", "-static", "qemu-s390x"),
}
I686 = Target("i686-linux-gnu-gcc", "-static -msse2 -mfpmath=sse")
MINGW = {
    "mingw": Target("x86_64-w64-mingw32-gcc", "-static", WINE or "wine64"),
    # Debian's is patched so that wide vectors on its narrow stack do no harm; see target.h.
    "mingw, vectors": Target("x86_64-w64-mingw32-gcc", "-static -DSF_UNALIGNED_MOVES"),
}


def run(command, **options):
    done = subprocess.run(
        [str(word) for word in command], check=False, capture_output=True, text=True, **options
    )
    said = (done.stdout + done.stderr)[-6000:]
    assert done.returncode == 0, f"exit {done.returncode}: {shlex.join(map(str, command))}\n{said}"
    return done.stdout


def compiled(command, sources, folder):
    """The object files of C sources, each compiled as a release build does and with no warning."""

    def compile_one(source):
        target = folder / f"{source.stem}.o"
        run([*command, *FLAGS, f"-I{KERNELS}", "-c", source, "-o", target])
        return target

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(compile_one, sources))


def check_program(command, folder, *link_flags):
    kernels = [source for source in SOURCES if source.name != "api.c"]
    objects = compiled(command, [*kernels, CHECK], folder)
    program = folder / "check_kernels.exe"
    run([*command, *objects, "-o", program, *link_flags, "-lm"])
    return program


def assert_passes(target, folder, environment=None):
    """Build the check and run it; it names each instruction set and says how that did."""
    command, runner = target.command(), target.run_by()
    program = check_program(command, folder)
    env = {**os.environ, **(environment or {})}
    report = run([*runner, program], timeout=1800, env=env)
    passed = {line.split(":")[0] for line in report.splitlines() if ": passed," in line}
    assert passed == set(target.isas), report


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("target", [*NATIVELY.values()], ids=[*NATIVELY])
def test_check_passes_natively(target, tmp_path):
    assert_passes(target, tmp_path)


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("target", [*EMULATED.values()], ids=[*EMULATED])
def test_check_passes_cross_compiled_under_qemu(target, tmp_path):
    assert_passes(target, tmp_path)


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.skipif(platform.machine() != "x86_64", reason="runs on x86 alone")
def test_check_passes_on_32_bits(tmp_path):
    assert_passes(I686, tmp_path)


@pytest.mark.slow
@pytest.mark.exhaustive
def test_check_passes_for_windows_under_wine(tmp_path):
    assert_passes(MINGW["mingw"], tmp_path, {"WINEPREFIX": tmp_path / "wine", "WINEDEBUG": "-all"})


@pytest.mark.slow
@pytest.mark.exhaustive
def test_check_passes_with_sanitizers(tmp_path):
    flags = "-g1 -fsanitize=address,undefined -fno-sanitize-recover=all"
    command = Target(NATIVE, flags).command()
    try:
        # Without warnings: what the sanitizers add makes GCC see uninitialized variables.
        program = check_program([*command, "-w"], tmp_path)
    except AssertionError as error:
        if "libasan" in str(error) or "libubsan" in str(error):
            pytest.skip("the sanitizers' libraries are not installed")
        raise
    run([program], timeout=1800, env={**os.environ, "ASAN_OPTIONS": "detect_leaks=0"})


EVERY = {**NATIVELY, "clang-14": Target("clang-14"), **EMULATED, "i686": I686, **MINGW}


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("target", [*EVERY.values()], ids=[*EVERY])
def test_no_file_of_the_kernels_gives_a_warning(target, tmp_path):
    compiled(target.command(), SOURCES, tmp_path)


@pytest.mark.parametrize(
    "flags",
    [
        ["-ffast-math"],
        ["-ffinite-math-only"],
        ["-fassociative-math", "-fno-signed-zeros", "-fno-trapping-math"],
        ["-freciprocal-math"],
    ],
    ids=" ".join,
)
def test_fast_math_is_refused(flags, tmp_path):
    command = [*Target(NATIVE).command(), *flags]
    macros = subprocess.run(
        [*command, "-O2", "-dM", "-E", "-x", "c", os.devnull],
        check=False,
        capture_output=True,
        text=True,
    ).stdout
    names = ("__FAST_MATH__", "__FINITE_MATH_ONLY__ 1", "__ASSOCIATIVE_MATH__", "__RECIPROCAL_MATH")
    if not any(name in macros for name in names):
        pytest.skip(f"{command[0]} does not tell")
    done = subprocess.run(
        [*command, "-std=c11", "-O2", "-c", KERNELS / "dispatch.c", "-o", tmp_path / "dispatch.o"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0 and "fast-math" in done.stderr


def test_the_x87_is_refused(tmp_path):
    command = [*Target("i686-linux-gnu-gcc").command(), "-std=c11", "-mfpmath=387"]
    done = subprocess.run(
        [*command, "-c", KERNELS / "dispatch.c", "-o", tmp_path / "dispatch.o"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0 and "rounded to their types" in done.stderr
