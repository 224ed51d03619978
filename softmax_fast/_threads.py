"""How many threads a call may use."""

import math
import os
import reprlib
import warnings

from . import _arguments, _core

# More than any machine has cores for, few enough to be created.
MOST_THREADS = 1024

_forked = False
_has_openmp = _core.openmp() is not None
_openmp_at_import = _core.openmp_max_threads()
_openmp_from_environment = "OMP_NUM_THREADS" in os.environ
_quota = None


def get_num_threads():
    """Number of threads that a large call may use.

    Returns
    -------
    int
        The value given to `set_num_threads`, else the environment variable
        ``SOFTMAX_FAST_NUM_THREADS``; else ``OMP_NUM_THREADS`` or a limit of ``threadpoolctl`` when
        one is set; else the number of CPUs the process may use: its affinity, or its cgroup's CPU
        quota when that is less. 1 in a forked child, and when built without OpenMP.

    See Also
    --------
    set_num_threads

    Notes
    -----
    A call uses fewer threads where its work is too small for more, and one while others hold the
    cores: after a parallel region that took longer than one thread would have, one thread works
    alone for some time. ``SOFTMAX_FAST_ADAPTIVE=0`` in the environment turns the second off.
    Results do not depend on the number of threads.

    Examples
    --------
    >>> import softmax_fast
    >>> softmax_fast.get_num_threads() >= 1
    True
    """
    return _automatic()


def set_num_threads(n):
    """Set the number of threads that calls without ``n_threads`` may use, for the whole process.

    Parameters
    ----------
    n : int or None
        At least 1, of which 1024 are used at most. None returns to the number at import:
        ``SOFTMAX_FAST_NUM_THREADS`` or automatic.

    Raises
    ------
    ValueError
        If ``n`` is neither None nor an int of at least 1.

    See Also
    --------
    get_num_threads

    Examples
    --------
    >>> import softmax_fast
    >>> softmax_fast.set_num_threads(1)
    >>> softmax_fast.get_num_threads()
    1
    >>> softmax_fast.set_num_threads(None)
    """
    global _chosen
    n = _arguments.threads(n, "n")
    _chosen = _default if n is None else min(n, MOST_THREADS)


def resolve(n_threads, size):
    """The most threads for a call on ``size`` elements; ``n_threads`` is checked already."""
    if _forked or (n_threads is None and size < _core.serial_below):
        return 1
    return _automatic() if n_threads is None else min(n_threads, MOST_THREADS)


def _automatic():
    if _forked or not _has_openmp:
        return 1
    if _chosen is not None:
        return _chosen
    limit = _core.openmp_max_threads()
    if not _openmp_from_environment and limit == _openmp_at_import:
        limit = usable_cpus()
    return min(limit, MOST_THREADS)


def usable_cpus():
    """CPUs this process may use: its affinity, or its cgroup's quota when that is less."""
    global _quota
    if _quota is None:
        _quota = cgroup_quota()
    if hasattr(os, "sched_getaffinity"):
        allowed = len(os.sched_getaffinity(0))
    else:
        allowed = os.cpu_count() or 1
    return math.ceil(min(allowed, _quota))


def cgroup_quota(read=None):
    """CPU quota of the process's control group and those above it, in CPUs; inf without one.

    ``read`` maps a path to the text of that file, or to None when there is no such file. Both
    versions of control groups are understood, see cgroups(7) and the kernel's
    admin-guide/cgroup-v2.rst and scheduler/sched-bwc.rst.
    """
    read = read or _read_text
    quota = math.inf
    for line in (read("/proc/self/cgroup") or "").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if not controllers:
            quota = min(quota, *(_quota_v2(read, g) for g in _and_above(group)))
        elif "cpu" in controllers.split(","):
            quota = min(quota, *(_quota_v1(read, g) for g in _and_above(group)))
    return quota


def _and_above(group):
    """``/a/b`` → ``/a/b``, ``/a``, and the root, as prefixes of a file's path."""
    parts = [part for part in group.split("/") if part]
    return ["".join(f"/{part}" for part in parts[:n]) for n in range(len(parts), -1, -1)]


def _quota_v2(read, group):
    return _ratio((read(f"/sys/fs/cgroup{group}/cpu.max") or "").split())


def _quota_v1(read, group):
    folder = f"/sys/fs/cgroup/cpu{group}"
    quota, period = (read(f"{folder}/cpu.cfs_{name}_us") for name in ("quota", "period"))
    return _ratio([(quota or "").strip(), (period or "").strip()])


def _ratio(fields):
    """Microseconds of CPU time over the period's; inf for "max", -1 and missing files."""
    try:
        quota, period = map(int, fields)
    except ValueError:
        return math.inf
    return quota / period if quota > 0 and period > 0 else math.inf


def _read_text(path):
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read()
    except OSError:
        return None


def _from_environment(environment):
    """The number in ``SOFTMAX_FAST_NUM_THREADS``, or None; one that is none warns."""
    text = environment.get("SOFTMAX_FAST_NUM_THREADS", "").strip()
    if not text:
        return None
    # int() refuses thousands of digits.
    if text.isascii() and text.isdigit() and len(text) <= 1000 and int(text) > 0:
        return min(int(text), MOST_THREADS)
    warnings.warn(
        f"SOFTMAX_FAST_NUM_THREADS={reprlib.repr(text)} is ignored: expected an integer >= 1",
        RuntimeWarning,
        stacklevel=2,
    )
    return None


def _after_fork_in_child():
    # The OpenMP runtime's threads do not exist in the child, and libgomp waits for them forever.
    global _forked
    _forked = True
    _core.set_serial(True)


_core.set_adaptive(_has_openmp and os.environ.get("SOFTMAX_FAST_ADAPTIVE", "").strip() != "0")
_default = _from_environment(os.environ)
_chosen = _default
_core.on_large_work(resolve)

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
