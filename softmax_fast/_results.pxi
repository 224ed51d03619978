# The memory of results: NumPy's, and that of large ones from memory/kept.h.  Part of _core.pyx.

cdef extern from "kept.h" nogil:
    enum: SF_KEPT_LEAST
    void sf_keep_at_most(size_t bytes) noexcept
    size_t sf_kept_at_most() noexcept
    size_t sf_kept_now() noexcept
    bint sf_is_kept(double bytes) noexcept
    void *sf_kept_malloc(void *unused, size_t bytes) noexcept
    void *sf_kept_calloc(void *unused, size_t n, size_t bytes) noexcept
    void *sf_kept_realloc(void *unused, void *block, size_t bytes) noexcept
    void sf_kept_free(void *unused, void *block, size_t bytes) noexcept

cdef extern from "numpy/arrayobject.h":
    ctypedef struct PyDataMemAllocator:
        void *ctx
        void *(*malloc)(void *, size_t) noexcept nogil
        void *(*calloc)(void *, size_t, size_t) noexcept nogil
        void *(*realloc)(void *, void *, size_t) noexcept nogil
        void (*free)(void *, void *, size_t) noexcept nogil

    ctypedef struct PyDataMem_Handler:
        char *name
        unsigned char version
        PyDataMemAllocator allocator

    PyObject *PyDataMem_DefaultHandler
    object PyDataMem_GetHandler()
    object PyDataMem_SetHandler(object handler)

cdef PyDataMem_Handler handler_of_kept
strcpy(handler_of_kept.name, "softmax_fast kept results")
handler_of_kept.version = 1
handler_of_kept.allocator.ctx = NULL
handler_of_kept.allocator.malloc = sf_kept_malloc
handler_of_kept.allocator.calloc = sf_kept_calloc
handler_of_kept.allocator.realloc = sf_kept_realloc
handler_of_kept.allocator.free = sf_kept_free
cdef object KEPT = PyCapsule_New(&handler_of_kept, "mem_handler", NULL)


cdef cnp.ndarray empty(tuple shape, int number):
    """A new array of a NumPy type's number."""
    cdef cnp.npy_intp sizes[MOST_DIMENSIONS]
    cdef int i, n = <int>len(shape)
    for i in range(n):
        sizes[i] = shape[i]
    return new_array(n, sizes, number)


cdef cnp.ndarray new_array(int n, cnp.npy_intp *sizes, int number):
    cdef double bytes = 4.0 if number == cnp.NPY_FLOAT32 else 8.0
    cdef int i
    for i in range(n):
        bytes *= sizes[i]
    if bytes < SF_KEPT_LEAST or not sf_is_kept(bytes):
        return cnp.PyArray_EMPTY(n, sizes, number, 0)
    return large_array(n, sizes, number)


cdef cnp.ndarray large_array(int n, cnp.npy_intp *sizes, int number):
    handler = PyDataMem_GetHandler()
    if <PyObject *>handler is not PyDataMem_DefaultHandler:  # the caller's own
        return cnp.PyArray_EMPTY(n, sizes, number, 0)
    PyDataMem_SetHandler(KEPT)
    try:
        return cnp.PyArray_EMPTY(n, sizes, number, 0)
    finally:
        PyDataMem_SetHandler(handler)


def keep_results(most):
    """Give back what is kept, and keep at most so many bytes from now on."""
    sf_keep_at_most(most)


def kept_results():
    """How many bytes of freed results may be kept for new ones, and how many are."""
    return {"at most": sf_kept_at_most(), "now": sf_kept_now()}


def _choose_kept(wanted):
    try:
        keep_results(int(wanted) if wanted else KEPT_AT_MOST)
    except (ValueError, OverflowError):
        keep_results(KEPT_AT_MOST)
        warnings.warn(f"SOFTMAX_FAST_KEEP_RESULTS is ignored: {wanted!r} is no number of bytes",
                      RuntimeWarning, stacklevel=2)


_choose_kept(os.environ.get("SOFTMAX_FAST_KEEP_RESULTS"))
