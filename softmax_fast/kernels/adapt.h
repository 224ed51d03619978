/* How many threads share the next call's work, by what the last ones found.
 *
 * A parallel region ends when its last worker has come by, also one that gets no core because others
 * hold them: a BLAS whose idle workers spin, another process, another caller.  Then it takes
 * milliseconds for microseconds of work, a hundred times what one thread needs.  Bits never depend on
 * the number of threads, so a call may choose it by what it sees.
 *
 * The calling thread takes pieces like the workers.  It knows how many of all pieces were its own, and
 * how long they kept it busy: from that follows what the call would have taken it alone, with no model
 * of the machine.  Where it was itself the one without a core, one of the workers knows.  A region that took
 * longer has lost the difference; one that took less has gained it.
 *
 * After a loss one thread works alone for a multiple of the time lost, and then the next region is a
 * trial.  The multiple is
 *      0          when the regions since the last loss have gained as much as it and this one lost:
 *                 a hiccup, paid for already
 *      8          when they have gained as much as the last one lost
 *      doubled,   up to 64, when they have not.
 * So in the long run, where trials fail, they cost 1/64 of one thread's time however long each lasts,
 * and fewer than one call in a hundred takes more than twice as long for one; where they do well, a
 * loss is soon forgotten.
 *
 * A loss is a matter of milliseconds however large the region was, and small regions lose as much as large
 * ones.  So who works alone during a pause, and has still so much to do that the other threads would save a
 * multiple of the time last lost, shares what is left.
 *
 * Callers at the same time share the processors: each counts on its part of them.
 *
 * One state serves all callers.  Its parts are read and written one by one: callers at the same time may
 * mix theirs, which changes how many threads the next calls have, never what they compute. */
#ifndef SF_ADAPT_H
#define SF_ADAPT_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    int is_on;
    int processors; /* this many threads find cores; 0: not known */
    long callers;   /* in a parallel loop now */
    /* In tenths of a microsecond, which 32 bits hold. */
    long pause;     /* one thread still works alone for so long */
    long lost;      /* by the last region that lost */
    long gained;    /* by the regions since */
    long factor;    /* of the time lost, for the next pause */
} sf_adapt;

/* The pieces of a thread that finished them, but for interrupted ones; in seconds. */
typedef struct { double pieces, last, busy, longest; } sf_taker;

/* What the calling thread knows of a region; what its first worker adds has a cache line of its own. */
typedef struct {
    double pieces, workers, started;
    sf_taker own;
    char apart[64];
    sf_taker other;
} sf_region;

sf_adapt sf_adapt_new(int processors);

/* A caller comes, who may use most > 1 threads, and goes. */
int sf_adapt_enter(sf_adapt *state, int most);
void sf_adapt_leave(sf_adapt *state);

/* Work was done by one thread that could have been shared. */
void sf_adapt_alone(sf_adapt *state, double seconds);

/* Whether work that would take one thread so many seconds is worth most threads in spite of a pause. */
int sf_adapt_is_worth(const sf_adapt *state, double seconds, int most);

static inline sf_region sf_region_begin(ptrdiff_t pieces, int workers, double now)
{
    const sf_taker taker = {0.0, now, 0.0, 0.0};
    sf_region region;
    region.pieces = (double)pieces;
    region.workers = workers;
    region.started = now;
    region.own = region.other = taker;
    return region;
}

/* Longer than other pieces by so much, a piece was interrupted: another had the core meanwhile. */
#define SF_INTERRUPTED 5e-4

/* A piece is finished. */
static inline void sf_took_piece(sf_taker *taker, double now)
{
    double seconds = now - taker->last;
    taker->last = now;
    if (seconds > SF_INTERRUPTED && taker->pieces > 0.0
        && (seconds - SF_INTERRUPTED) * taker->pieces > 8.0 * taker->busy)
        return; /* says nothing of the work */
    taker->busy += seconds;
    taker->pieces += 1.0;
    if (seconds > taker->longest)
        taker->longest = seconds;
}

void sf_adapt_learn(sf_adapt *state, const sf_region *region, double now);

#ifdef __cplusplus
}
#endif

#endif
