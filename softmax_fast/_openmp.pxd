# The only door to OpenMP: without it the same names exist and say "one thread".

cdef extern from *:
    """
    #ifdef _OPENMP
    #include <omp.h>
    #define SF_OPENMP_VERSION _OPENMP
    #else
    #define SF_OPENMP_VERSION 0
    #define omp_get_max_threads() 1
    #define omp_get_num_procs() 1
    #define omp_get_thread_num() 0
    #define omp_get_wtime() 0.0
    #endif
    #if defined(__clang__) || !defined(__GNUC__)
    #define SF_OPENMP_LLVM 1
    #else
    #define SF_OPENMP_LLVM 0
    #endif
    #if defined(__clang__)
    #define SF_COMPILER "clang " __clang_version__
    #elif defined(__GNUC__)
    #define SF_COMPILER "gcc " __VERSION__
    #elif defined(_MSC_VER)
    #define SF_STRINGIZE_(a) #a
    #define SF_STRINGIZE(a) SF_STRINGIZE_(a)
    #define SF_COMPILER "msvc " SF_STRINGIZE(_MSC_VER)
    #else
    #define SF_COMPILER "unknown"
    #endif
    """
    const int SF_OPENMP_VERSION
    const bint SF_OPENMP_LLVM
    const char *SF_COMPILER
    int omp_get_max_threads() noexcept nogil
    int omp_get_num_procs() noexcept nogil
    int omp_get_thread_num() noexcept nogil
    double omp_get_wtime() noexcept nogil
