"""What this copy of the library was built with, what it chose on this machine, and where it lies."""

import pathlib
import platform

import numpy as np

from . import _arguments, _core, _threads
from ._version import __version__


def show_config(mode="stdout"):
    """Show the build and the choices made on this machine.

    Parameters
    ----------
    mode : {"stdout", "dicts"}, optional
        Print the configuration, or return it, as `numpy.show_config` does.

    Returns
    -------
    dict or None
        For ``mode="dicts"``, nested dicts of the version, the instruction sets (built into the
        module, supported by this CPU, in use), the OpenMP runtime or None, the number of threads,
        whether calls choose theirs by what they find (and for how many seconds of work one thread
        works alone at present), the compiler, the Python and NumPy versions, the cache sizes in
        bytes, how large results of softmax and log_softmax are written ("plain", "streaming", or
        what was measured so far for calls of each kind), and how many bytes of freed large results
        may be and are kept for new ones.

    Raises
    ------
    ValueError
        If ``mode`` is neither.

    Notes
    -----
    The environment variable ``SOFTMAX_FAST_ISA``, read at import, selects a lower instruction set;
    ``SOFTMAX_FAST_ADAPTIVE=0`` makes every call use all the threads it may. Results of at least
    4 MiB are written through the caches or past them, whichever the first such calls of a process
    find to be faster; ``SOFTMAX_FAST_STREAM=0`` or ``1``, read at import, forces one.
    ``SOFTMAX_FAST_KEEP_RESULTS``, read at import, is how many bytes may be kept, 0 for none.

    Examples
    --------
    >>> import softmax_fast
    >>> config = softmax_fast.show_config(mode="dicts")
    >>> config["instruction set"]["in use"] in config["instruction set"]["built"]
    True
    """
    if _arguments.show_config_mode(mode) == "dicts":
        return _config()
    print("\n".join(_lines(_config())))
    return None


def get_include():
    """Return the folder of the C header ``softmax_fast.h``.

    Returns
    -------
    str
        For the compiler's search path (``-I``) or ``include_dirs`` of an extension module. The
        header says what there is to call; Cython modules need no header, they
        ``cimport softmax_fast``.

    See Also
    --------
    numpy.get_include

    Examples
    --------
    >>> import os
    >>> import softmax_fast
    >>> os.listdir(softmax_fast.get_include())
    ['softmax_fast.h']
    """
    return str(pathlib.Path(__file__).resolve().parent / "include")


def _config():
    return {
        "softmax_fast": __version__,
        "instruction set": {
            "in use": _core.isa(),
            "supported": list(_core.isas_supported()),
            "built": list(_core.isas_built()),
        },
        "threads": {
            "OpenMP": _core.openmp(),
            "number": _threads.get_num_threads(),
            "adaptive": _core.is_adaptive(),
            "one alone for": round(_core.adaptive_state()["pause"], 7),
        },
        "compiler": _core.compiler(),
        "Python": platform.python_version(),
        "NumPy": np.__version__,
        "machine": f"{platform.system()} {platform.machine()}",
        "cache sizes": dict(_core.cache_sizes()),
        "stores of large results": _core.stores(),
        "kept for large results": _core.kept_results(),
    }


def _lines(value, indent=""):
    for key, entry in value.items():
        if isinstance(entry, dict):
            yield f"{indent}{key}:"
            yield from _lines(entry, indent + "  ")
        else:
            text = ", ".join(entry) if isinstance(entry, list) else entry
            yield f"{indent}{key}: {'none' if text is None else text}"
