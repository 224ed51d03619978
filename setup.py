"""Build of the compiled modules; everything else is declared in pyproject.toml.

Environment:

CC
    The C compiler.
SOFTMAX_FAST_NO_OPENMP=1
    Build without threads.
SOFTMAX_FAST_SANITIZE=address,undefined
    Instrument the module with these sanitizers of GCC or clang.
"""

import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from glob import glob
from pathlib import Path

import numpy
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError, LinkError

PACKAGE = "softmax_fast"
KERNELS = f"{PACKAGE}/kernels"
MEMORY = f"{PACKAGE}/memory"

# No flag of the fast-math family and no -march: the kernels need exact IEEE arithmetic, and carry
# their instruction sets in target regions of the source. -g0 because many Pythons were built with -g
# and pass it on, which makes the module seven times as large.
UNIX_FLAGS = ["-O3", "-g0", "-std=c11", "-ffp-contract=off", "-fvisibility=hidden"]
MSVC_FLAGS = ["/O2", "/std:c11"]
# The names of static functions are 45 KB of a wheel; without this, profilers show them.
LINK_FLAGS = ["-Wl,-s"] if sys.platform == "linux" else []

OPENMP_PROBE = """
#include <omp.h>
int main(void)
{
    int sum = 0;
#pragma omp parallel for reduction(+ : sum)
    for (int i = 0; i < 64; i++)
        sum += omp_get_max_threads() > 0;
    return sum != 64;
}
"""


class BuildExt(build_ext):
    """Adds the flags of the compiler that was found, and OpenMP where it compiles and links."""

    def finalize_options(self):
        super().finalize_options()
        # The compiler and the options above may differ from those of the last build, and no
        # timestamp shows it.
        self.force = True

    def build_extensions(self):
        msvc = self.compiler.compiler_type == "msvc"
        compile_flags = list(MSVC_FLAGS if msvc else UNIX_FLAGS)
        link_flags = list(LINK_FLAGS)
        openmp = None

        if os.environ.get("SOFTMAX_FAST_NO_OPENMP", "0") not in ("", "0"):
            print(f"{PACKAGE}: building without threads (SOFTMAX_FAST_NO_OPENMP is set)")
        else:
            openmp = self.find_openmp(msvc)
            if openmp is None:
                compiler = "cl" if msvc else self.compiler.compiler[0]
                print(f"{PACKAGE}: building without threads ({compiler} finds no working OpenMP)")
            else:
                print(f"{PACKAGE}: building with OpenMP ({' '.join(openmp[0])})")

        sanitizers = os.environ.get("SOFTMAX_FAST_SANITIZE")
        if sanitizers:
            # With the checks in them the kernels take minutes at -O3. AddressSanitizer knows the
            # sizes of objects better.
            compile_flags[compile_flags.index("-O3")] = "-O1"
            compile_flags += [
                f"-fsanitize={sanitizers}",
                "-fno-sanitize=object-size",
                "-fno-sanitize-recover=undefined",
                "-fno-omit-frame-pointer",
                "-g1",
            ]
            link_flags = [f"-fsanitize={sanitizers}"]
            print(f"{PACKAGE}: building with sanitizers ({sanitizers})")

        for extension in self.extensions:
            loops = openmp if openmp and extension.name == f"{PACKAGE}._core" else ([], [])
            extension.extra_compile_args = compile_flags + loops[0]
            extension.extra_link_args = link_flags + loops[1]
        self.compile_in_parallel()
        super().build_extensions()

    def compile_in_parallel(self):
        """Let the compiler work on several files at once; the kernels take a while each."""
        compile_files = self.compiler.compile

        def compile_one(source, flags, **options):
            # -O3 makes nothing faster of what Cython writes, and a wheel 60 KB larger.
            if not source.startswith(KERNELS):
                flags = ["-O2" if flag == "-O3" else flag for flag in flags]
            return compile_files([source], extra_postargs=flags, **options)

        def compile_each(sources, extra_postargs=(), **options):
            compile_it = partial(compile_one, flags=extra_postargs, **options)
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                return [path for paths in pool.map(compile_it, sources) for path in paths]

        self.compiler.compile = compile_each

    def find_openmp(self, msvc):
        """The first (compile flags, link flags) with which an OpenMP program builds, or None."""
        if msvc:
            candidates = [(["/openmp"], [])]
        else:
            candidates = [(["-fopenmp"], ["-fopenmp"])]
            if sys.platform == "darwin":
                candidates.append((["-Xpreprocessor", "-fopenmp"], ["-lomp"]))
        for compile_flags, link_flags in candidates:
            with tempfile.TemporaryDirectory() as folder:
                source = Path(folder, "openmp_probe.c")
                source.write_text(OPENMP_PROBE)
                try:
                    objects = self.compiler.compile(
                        [str(source)], output_dir=folder, extra_postargs=compile_flags
                    )
                    self.compiler.link_executable(
                        objects, "openmp_probe", output_dir=folder, extra_postargs=link_flags
                    )
                except (CompileError, LinkError):
                    continue
            return compile_flags, link_flags
        return None


DIRECTIVES = {"language_level": 3, "cdivision": True, "freethreading_compatible": True}
NO_CHECKS = {"boundscheck": False, "wraparound": False, "initializedcheck": False}


def extension(name, sources=(), **directives):
    """A compiled module; all of them know the interface of the kernels, ``_core`` holds them."""
    result = Extension(
        f"{PACKAGE}.{name}",
        sources=[f"{PACKAGE}/{name}.pyx", *sources],
        include_dirs=[KERNELS, MEMORY, numpy.get_include()],
        define_macros=[
            ("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION"),
            ("NPY_TARGET_VERSION", "NPY_1_22_API_VERSION"),
        ],
        depends=sorted(
            glob(f"{KERNELS}/**/*.h", recursive=True)
            + glob(f"{MEMORY}/*.h")
            + glob(f"{PACKAGE}/include/*.h")
            + glob(f"{PACKAGE}/*.px[di]")
        ),
    )
    result.cython_directives = DIRECTIVES | directives
    return result


SOURCES = sorted(glob(f"{KERNELS}/**/*.c", recursive=True) + glob(f"{MEMORY}/*.c"))
MODULES = [
    extension("_layout"),
    extension("_arguments"),
    extension("_core", SOURCES, **NO_CHECKS),
]

setup(ext_modules=MODULES, cmdclass={"build_ext": BuildExt})
