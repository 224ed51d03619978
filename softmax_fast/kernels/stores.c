#if defined(__linux__)
#define _POSIX_C_SOURCE 200112L /* clock_gettime */
#endif
#include "stores.h"
#include "atomic.h"
#include "cpu.h"
#include "scalars.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>
#if defined(_WIN32)
#include <windows.h>
#elif defined(__linux__)
#include <sys/resource.h>
#endif

/* Rows of one block, rows that stay well within a level-2 cache, longer ones, scattered ones; by powers of
 * two of the bytes written. */
enum { ROW_CLASSES = 4, SIZES = 10, N_CLASSES = 3 * 2 * ROW_CLASSES * SIZES };

static const int operations[] = {SF_LOG_SOFTMAX, SF_SOFTMAX, SF_SOFTMAX_LOSS_GRAD};

static sf_store_class classes[N_CLASSES];

enum { NOT_ASKED = -2 };
static int chosen = NOT_ASKED;

void sf_choose_stores(int stores)
{
    SF_STORE(chosen, stores);
    for (int i = 0; stores == SF_STORES_MEASURED && i < N_CLASSES; i++)
        SF_STORE(classes[i].trials, 0);
}

int sf_stores_chosen(void)
{
    int stores = SF_LOAD(chosen);
    if (stores == NOT_ASKED) {
        const char *wanted = getenv("SOFTMAX_FAST_STREAM");
        stores = wanted && !strcmp(wanted, "0") ? SF_STORES_PLAIN
               : wanted && !strcmp(wanted, "1") ? SF_STORES_STREAMING : SF_STORES_MEASURED;
        SF_STORE(chosen, stores);
    }
    return stores;
}

sf_store_class *sf_store_class_of(const sf_call *call, int operation)
{
    if (sf_stores_chosen() != SF_STORES_MEASURED)
        return NULL;
    const ptrdiff_t row = call->n_classes * call->kernels->item_size, bytes = call->n_rows * row;
    int size = 0;
    while (size < SIZES - 1 && bytes / SF_STREAM_BYTES >> (size + 1))
        size++;
    const int rows = sf_is_scattered(call) ? 3 : row <= SF_BLOCK_BYTES ? 0 : row <= sf_cached(2) / 4 ? 1 : 2;
    int kind = 0;
    while (operations[kind] != operation)
        kind++;
    kind = kind * 2 + (call->kernels->item_size == 8);
    sf_store_class *own = &classes[(kind * ROW_CLASSES + rows) * SIZES + size];
    if (!SF_LOAD(own->trials)) /* until then, what cache sizes tell */
        SF_STORE(own->stores, bytes > sf_cached(3) / 2);
    return own;
}

int sf_next_trial(sf_store_class *class_, int *stores)
{
    int trial = SF_LOAD(class_->trials);
    *stores = SF_LOAD(class_->stores);
    if (trial >= SF_TRIALS)
        return -1;
    if (!SF_LOAD(class_->fresh))
        *stores = trial / 2 % 2;
    return trial;
}

sf_moment sf_now(void)
{
    sf_moment now = {0, 0};
#if defined(_WIN32)
    LARGE_INTEGER ticks, a_second;
    QueryPerformanceCounter(&ticks);
    QueryPerformanceFrequency(&a_second);
    now.nanoseconds = (int64_t)((double)ticks.QuadPart * 1e9 / (double)a_second.QuadPart);
#else
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    now.nanoseconds = (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
#if defined(__linux__)
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    now.pages = usage.ru_minflt;
#endif
#endif
    return now;
}

static int64_t median(const int64_t *took)
{
    int64_t a = SF_LOAD(took[0]), b = SF_LOAD(took[1]), c = SF_LOAD(took[2]);
    return SF_MAX(SF_MIN(a, b), SF_MIN(SF_MAX(a, b), c));
}

void sf_note_trial(sf_store_class *class_, int trial, int stores, ptrdiff_t bytes, sf_moment begun)
{
    sf_moment ended = sf_now();
    /* Fresh pages are of some kibibytes, or of two megabytes and then some. */
    const int fresh = ended.pages - begun.pages > bytes / 2097152 + 16;
    const int was_fresh = SF_LOAD(class_->fresh);
    SF_STORE(class_->fresh, fresh);
    /* Another caller may have gone on meanwhile. */
    if (fresh || was_fresh || trial != SF_LOAD(class_->trials) || stores != trial / 2 % 2)
        return;
    /* The first of a pair pays for what the caches still hold of the other way. */
    const int trials = trial + 1;
    if (trial % 2)
        SF_STORE(class_->took[stores][trial / 4],
                 (int64_t)((double)(ended.nanoseconds - begun.nanoseconds) * 1e9 / (double)bytes));
    if (trials == SF_TRIALS) {
        /* The usual ones, unless the others are clearly faster. */
        const int usual = SF_LOAD(class_->stores);
        const int64_t of_usual = median(class_->took[usual]);
        const int64_t of_others = median(class_->took[!usual]);
        if (of_others < of_usual - of_usual / 32)
            SF_STORE(class_->stores, !usual);
    }
    SF_STORE(class_->trials, trials);
}

int sf_stores_measured(int i, sf_measured_stores *measured)
{
    for (int c = 0; c < N_CLASSES; c++) {
        sf_store_class *own = &classes[c];
        if (SF_LOAD(own->trials) < SF_TRIALS || i-- > 0)
            continue;
        measured->operation = operations[c / (2 * ROW_CLASSES * SIZES)];
        measured->item_size = c / (ROW_CLASSES * SIZES) % 2 ? 8 : 4;
        measured->rows = c / SIZES % ROW_CLASSES;
        measured->size = c % SIZES;
        measured->stores = SF_LOAD(own->stores);
        for (int k = 0; k < 2; k++)
            measured->seconds[k] = (double)median(own->took[k]) * 1e-9;
        return 1;
    }
    return 0;
}
