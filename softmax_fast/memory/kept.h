/* Memory of large results: what a freed array leaves is kept for the next result of its size, since a
 * fresh page costs more than to compute what is written into it.  Kept pages are the system's to take:
 * MADV_FREE. */
#ifndef SF_KEPT_H
#define SF_KEPT_H

#include <stddef.h>
#include <stdlib.h> /* __GLIBC__ */

/* Results of fewer bytes come from NumPy's memory.  glibc itself keeps those below 32 MiB, at less cost. */
#ifdef __GLIBC__
enum { SF_KEPT_LEAST = 33554432 };
#else
enum { SF_KEPT_LEAST = 1048576 };
#endif

/* Gives back what is kept, and keeps at most so many bytes from now on: 0 for none.  None are kept where
 * the system cannot take the pages when it needs them. */
void sf_keep_at_most(size_t bytes);
size_t sf_kept_at_most(void);
size_t sf_kept_now(void);

/* Whether the memory of a result of so many bytes would be kept. */
int sf_is_kept(double bytes);

/* The functions of a PyDataMem_Handler.  Any thread may call them, with the GIL or without. */
void *sf_kept_malloc(void *unused, size_t bytes);
void *sf_kept_calloc(void *unused, size_t n, size_t bytes);
void *sf_kept_realloc(void *unused, void *block, size_t bytes);
void sf_kept_free(void *unused, void *block, size_t bytes);

#endif
