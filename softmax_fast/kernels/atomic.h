/* What is written once, or by whoever chooses; every thread that finds it empty finds the same. */
#ifndef SF_ATOMIC_H
#define SF_ATOMIC_H

#if defined(__GNUC__) || defined(__clang__)
#define SF_LOAD(variable) __atomic_load_n(&(variable), __ATOMIC_RELAXED)
#define SF_STORE(variable, value) __atomic_store_n(&(variable), (value), __ATOMIC_RELAXED)
#else
#define SF_LOAD(variable) (variable)
#define SF_STORE(variable, value) ((variable) = (value))
#endif

#endif
