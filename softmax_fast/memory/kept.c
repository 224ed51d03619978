#if defined(__linux__)
#define _GNU_SOURCE /* MAP_ANONYMOUS, MADV_FREE */
#include <sys/mman.h>
#endif
#include "kept.h"

#include <stdint.h>
#include <string.h>

#if defined(MADV_FREE) && UINTPTR_MAX > 0xffffffffu

/* A block begins at a multiple of a huge page, behind its capacity.  A slot holds its address and, in
 * the low bits, its capacity in grains: one word, so that to take it is one exchange. */
#define HUGE_PAGE ((size_t)2097152)
#define GRAIN ((size_t)65536) /* a multiple of every size of a page */
enum { SLOTS = 8 };

static uintptr_t slots[SLOTS];
static size_t most, kept; /* bytes; kept counts what the slots hold, or are about to */

/* At most an eighth more than is asked for, so that nearly equal sizes are one. */
static size_t capacity_of(size_t bytes)
{
    size_t step = GRAIN;
    while (step < bytes / 16)
        step *= 2;
    return bytes <= SIZE_MAX / 4 ? (bytes / step + (bytes % step != 0 || bytes == 0)) * step : 0;
}

static size_t *capacity_at(void *block) { return (size_t *)block - 1; }

static void give_back(void *block, size_t capacity) { munmap((char *)block - GRAIN, GRAIN + capacity); }

static void drop_word(uintptr_t word)
{
    const size_t capacity = word % HUGE_PAGE * GRAIN;
    give_back((void *)(word - word % HUGE_PAGE), capacity);
    __atomic_sub_fetch(&kept, capacity, __ATOMIC_RELAXED);
}

static void drop(int i)
{
    const uintptr_t word = __atomic_exchange_n(&slots[i], 0, __ATOMIC_ACQUIRE);
    if (word)
        drop_word(word);
}

static void drop_all(void)
{
    for (int i = 0; i < SLOTS; i++)
        drop(i);
}

static int wants_huge_pages(void)
{
    const char *wanted = getenv("NUMPY_MADVISE_HUGEPAGE");
    return !wanted || strcmp(wanted, "0");
}

static void *map(size_t capacity)
{
    const size_t room = GRAIN + capacity + HUGE_PAGE;
    char *begin = mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (begin == MAP_FAILED)
        return NULL;
    char *block = begin + GRAIN;
    block += -(uintptr_t)block % HUGE_PAGE;
    if (block - GRAIN > begin)
        munmap(begin, (size_t)(block - GRAIN - begin));
    if (block + capacity < begin + room)
        munmap(block + capacity, (size_t)(begin + room - (block + capacity)));
#ifdef MADV_HUGEPAGE
    if (capacity >= 2 * HUGE_PAGE && wants_huge_pages())
        madvise(block - GRAIN, GRAIN + capacity, MADV_HUGEPAGE);
#endif
    *capacity_at(block) = capacity;
    return block;
}

static void *take(size_t capacity)
{
    for (int i = 0; i < SLOTS; i++) {
        uintptr_t word = __atomic_load_n(&slots[i], __ATOMIC_RELAXED);
        if (word && word % HUGE_PAGE * GRAIN == capacity
            && __atomic_compare_exchange_n(&slots[i], &word, 0, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)) {
            __atomic_sub_fetch(&kept, capacity, __ATOMIC_RELAXED);
            return (void *)(word - word % HUGE_PAGE);
        }
    }
    return NULL;
}

/* The newest is in the first slot; the others make room, and the oldest leaves.  Whether it was kept. */
static int keep(void *block, size_t capacity)
{
    const size_t bound = __atomic_load_n(&most, __ATOMIC_RELAXED);
    if (capacity < SF_KEPT_LEAST || capacity > bound || capacity / GRAIN >= HUGE_PAGE
        || madvise(block, capacity, MADV_FREE))
        return 0;
    size_t now = __atomic_add_fetch(&kept, capacity, __ATOMIC_RELAXED);
    for (int i = SLOTS; now > bound && i-- > 0;) {
        drop(i);
        now = __atomic_load_n(&kept, __ATOMIC_RELAXED);
    }
    uintptr_t word = (uintptr_t)block + capacity / GRAIN;
    for (int i = 0; now <= bound && word && i < SLOTS; i++)
        word = __atomic_exchange_n(&slots[i], word, __ATOMIC_ACQ_REL);
    if (word)
        drop_word(word);
    return 1;
}

void sf_keep_at_most(size_t bytes)
{
    __atomic_store_n(&most, bytes, __ATOMIC_RELAXED);
    drop_all();
}

size_t sf_kept_at_most(void) { return __atomic_load_n(&most, __ATOMIC_RELAXED); }

size_t sf_kept_now(void) { return __atomic_load_n(&kept, __ATOMIC_RELAXED); }

int sf_is_kept(double bytes)
{
    return bytes >= SF_KEPT_LEAST && bytes <= (double)sf_kept_at_most()
           && capacity_of((size_t)bytes) <= sf_kept_at_most();
}

void *sf_kept_malloc(void *unused, size_t bytes)
{
    (void)unused;
    const size_t capacity = capacity_of(bytes);
    if (!capacity)
        return NULL;
    void *block = take(capacity);
    if (!block)
        block = map(capacity);
    if (!block) {
        drop_all();
        block = map(capacity);
    }
    return block;
}

void *sf_kept_calloc(void *unused, size_t n, size_t bytes)
{
    if (bytes && n > SIZE_MAX / bytes)
        return NULL;
    void *block = sf_kept_malloc(unused, n * bytes);
    return block ? memset(block, 0, n * bytes) : NULL;
}

void *sf_kept_realloc(void *unused, void *block, size_t bytes)
{
    if (!block)
        return sf_kept_malloc(unused, bytes);
    const size_t had = *capacity_at(block), capacity = capacity_of(bytes);
    if (capacity && capacity <= had) {
        if (capacity < had && munmap((char *)block + capacity, had - capacity) == 0)
            *capacity_at(block) = capacity;
        return block;
    }
    void *larger = sf_kept_malloc(unused, bytes);
    if (larger) {
        memcpy(larger, block, had);
        sf_kept_free(unused, block, had);
    }
    return larger;
}

void sf_kept_free(void *unused, void *block, size_t bytes)
{
    (void)unused;
    (void)bytes; /* what NumPy thinks of its array by now */
    if (block && !keep(block, *capacity_at(block)))
        give_back(block, *capacity_at(block));
}

#else /* nothing is kept, so nothing is asked of these but to be there */

void sf_keep_at_most(size_t bytes) { (void)bytes; }
size_t sf_kept_at_most(void) { return 0; }
size_t sf_kept_now(void) { return 0; }
int sf_is_kept(double bytes) { return (void)bytes, 0; }

void *sf_kept_malloc(void *unused, size_t bytes) { return (void)unused, malloc(bytes); }
void *sf_kept_calloc(void *unused, size_t n, size_t bytes) { return (void)unused, calloc(n, bytes); }

void *sf_kept_realloc(void *unused, void *block, size_t bytes)
{
    return (void)unused, realloc(block, bytes);
}

void sf_kept_free(void *unused, void *block, size_t bytes) { (void)unused, (void)bytes, free(block); }

#endif
