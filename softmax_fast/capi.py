"""The C-level API: for Cython ``capi.pxd``, for C and C++ ``include/softmax_fast.h``.

``__pyx_capi__`` has a capsule with the address of each function, for numba, cffi and ctypes. A
capsule's name is its function's type.
"""

from ._core import __pyx_capi__

__all__ = ["__pyx_capi__"]
