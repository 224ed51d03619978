/* The caller's floating-point environment.  The kernels count on rounding to nearest, on subnormals and
 * on masked traps.  A caller who set otherwise gets the same results, and finds everything as it was:
 * enter before a run of kernels in every thread, leave after it.  In between, subnormals may be taken as
 * 0 for a while, where products of them would take all the time. */
#ifndef SF_ENVIRONMENT_H
#define SF_ENVIRONMENT_H

#include <stdint.h>

#if defined(__SSE2__) || defined(_M_X64)
#include <xmmintrin.h>
typedef unsigned sf_environment;
static inline sf_environment sf_enter(void)
{
    unsigned found = _mm_getcsr();
    if ((found & 0xffc0u) != 0x1f80u)
        _mm_setcsr(0x1f80u);
    return found;
}
static inline void sf_leave(sf_environment found)
{
    if ((found & 0xffc0u) != 0x1f80u)
        _mm_setcsr(found);
}
static inline void sf_flush_subnormals(int flushes)
{
    const unsigned bits = 0x8040u; /* of results and of operands */
    _mm_setcsr(flushes ? _mm_getcsr() | bits : _mm_getcsr() & ~bits);
}
#elif defined(__aarch64__) && (defined(__GNUC__) || defined(__clang__))
typedef uint64_t sf_environment;
static inline sf_environment sf_enter(void)
{
    uint64_t found, usual = 0;
    __asm__ volatile("mrs %0, fpcr" : "=r"(found));
    if (found)
        __asm__ volatile("msr fpcr, %0" : : "r"(usual));
    return found;
}
static inline void sf_leave(sf_environment found)
{
    if (found)
        __asm__ volatile("msr fpcr, %0" : : "r"(found));
}
static inline void sf_flush_subnormals(int flushes)
{
    uint64_t control = flushes ? (uint64_t)1 << 24 : 0;
    __asm__ volatile("msr fpcr, %0" : : "r"(control));
}
#else
typedef unsigned sf_environment;
static inline sf_environment sf_enter(void) { return 0; }
static inline void sf_leave(sf_environment found) { (void)found; }
static inline void sf_flush_subnormals(int flushes) { (void)flushes; }
#endif

#endif
