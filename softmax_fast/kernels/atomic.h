/* What several threads read and write without an order: each value by itself is whole. */
#ifndef SF_ATOMIC_H
#define SF_ATOMIC_H

/* SF_ADD is of a long, and gives what was there before. */
#if defined(__GNUC__) || defined(__clang__)
#define SF_LOAD(variable) __atomic_load_n(&(variable), __ATOMIC_RELAXED)
#define SF_STORE(variable, value) __atomic_store_n(&(variable), (value), __ATOMIC_RELAXED)
#define SF_ADD(variable, value) __atomic_fetch_add(&(variable), (value), __ATOMIC_RELAXED)
#else
#define SF_LOAD(variable) (variable)
#define SF_STORE(variable, value) ((variable) = (value))
#ifdef _MSC_VER
#include <intrin.h>
#define SF_ADD(variable, value) _InterlockedExchangeAdd(&(variable), (value))
#else
#define SF_ADD(variable, value) (((variable) += (value)) - (value))
#endif
#endif

#endif
