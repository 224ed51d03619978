"""Builds the C helpers of the benchmarks with the system's compiler and loads them.

The libraries go to a cache folder of the user's (``XDG_CACHE_HOME``, else ``~/.cache``), never into
the repository, and are built again when their sources, the compiler or the flags change.
"""

import ctypes
import hashlib
import os
import shlex
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent
FLAGS = ["-O3", "-std=c11", "-ffp-contract=off", "-Wno-unknown-pragmas", "-shared", "-fPIC"]


class BuildError(RuntimeError):
    """No compiler, or it refused the source."""


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "softmax_fast-benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _compiler() -> list[str]:
    if os.environ.get("CC"):
        return shlex.split(os.environ["CC"])
    for name in ("cc", "gcc", "clang"):
        if shutil.which(name):
            return [name]
    raise BuildError("no C compiler found (set CC)")


def load(source: str, *included: str) -> ctypes.CDLL:
    """Compile ``source`` of this folder, with OpenMP where the compiler has it, and load it.

    Parameters
    ----------
    source : str
        Name of a C file in this folder.
    *included : str
        Further files of this folder it includes, so that a change in them is seen.

    Raises
    ------
    BuildError
        When there is no compiler or it fails; the text is the compiler's.
    """
    compiler = _compiler()
    key = hashlib.sha256(" ".join(compiler + FLAGS).encode())
    for name in (source, *included):
        key.update((HERE / name).read_bytes())
    try:
        version = subprocess.run([*compiler, "--version"], capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise BuildError(f"{compiler[0]}: {error}") from error
    key.update(version)
    library = _cache_folder() / f"{Path(source).stem}-{key.hexdigest()[:16]}.so"
    if not library.exists():
        partial = library.with_suffix(f".{os.getpid()}")
        for openmp in (["-fopenmp"], []):
            command = [*compiler, *FLAGS, *openmp, str(HERE / source), "-o", str(partial), "-lm"]
            built = subprocess.run(command, check=False, capture_output=True, text=True)
            if built.returncode == 0:
                break
        else:
            raise BuildError(f"{' '.join(command)}\n{built.stderr}")
        os.replace(partial, library)
    return ctypes.CDLL(str(library))
