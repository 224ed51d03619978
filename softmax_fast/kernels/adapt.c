#include "adapt.h"
#include "atomic.h"

#define TICKS_PER_SECOND 1e7

enum {
    LEAST_FACTOR = 8,
    MOST_FACTOR = 64,
    WORTH_FACTOR = 4,
    LONGEST_LOSS = 500000, /* 50 ms: more was a process that was stopped, not a worker that came late */
    MOST_GAIN = 1000000000
};

static long ticks(double seconds, long most)
{
    double n = seconds * TICKS_PER_SECOND;
    return n < (double)most ? (long)n : most;
}

sf_adapt sf_adapt_new(int processors)
{
    sf_adapt state = {.is_on = 1, .processors = processors, .factor = LEAST_FACTOR};
    return state;
}

int sf_adapt_enter(sf_adapt *state, int most)
{
    long callers = SF_ADD(state->callers, 1) + 1;
    if (SF_LOAD(state->pause) > 0)
        return 1;
    if (callers == 1 || !state->processors)
        return most;
    long part = state->processors / callers;
    return part < 1 ? 1 : part < most ? (int)part : most;
}

void sf_adapt_leave(sf_adapt *state) { SF_ADD(state->callers, -1); }

void sf_adapt_alone(sf_adapt *state, double seconds)
{
    long pause = SF_LOAD(state->pause);
    if (pause > 0) {
        long spent = ticks(seconds, pause);
        SF_STORE(state->pause, pause - (spent > 0 ? spent : 1));
    }
}

int sf_adapt_is_worth(const sf_adapt *state, double seconds, int most)
{
    const long callers = SF_LOAD(state->callers);
    const double saved = seconds - seconds / most;
    return callers == 1 && SF_LOAD(state->pause) > 0
        && saved * TICKS_PER_SECOND > WORTH_FACTOR * (double)SF_LOAD(state->lost);
}

/* Without the longest, in which the thread may have been stopped, or before its first. */
static double typical_piece(const sf_taker *taker)
{
    return taker->pieces > 1.0 ? (taker->busy - taker->longest) / (taker->pieces - 1.0) : taker->busy;
}

/* Whether the calling thread was itself without a core for most of the region, or in its first piece, which
 * no earlier one tells to be long. */
static int was_stopped(const sf_region *region)
{
    return region->own.pieces * region->workers * 2.0 <= region->pieces
        || (region->other.pieces > 0.0
            && region->own.longest > SF_INTERRUPTED + 8.0 * typical_piece(&region->other));
}

void sf_adapt_learn(sf_adapt *state, const sf_region *region, double now)
{
    const sf_taker *own = &region->own, *other = &region->other;
    const int stopped = was_stopped(region);
    double seconds = now - region->started, piece = own->pieces > 0.0 ? own->busy / own->pieces : 0.0;
    if (stopped && other->pieces > 0.0) {
        piece = typical_piece(other);
        if (own->pieces > 1.0 && typical_piece(own) < piece)
            piece = typical_piece(own);
    }
    double alone = piece * region->pieces;
    if (alone <= 0.0)
        return;
    if (seconds > alone) {
        long lost = ticks(seconds - alone, LONGEST_LOSS), before = SF_LOAD(state->lost);
        if (!lost)
            return;
        long gained = SF_LOAD(state->gained), factor = LEAST_FACTOR;
        if (gained < before) {
            factor = 2 * SF_LOAD(state->factor);
            factor = factor < LEAST_FACTOR ? LEAST_FACTOR : factor < MOST_FACTOR ? factor : MOST_FACTOR;
        } else if (gained - before >= lost) {
            factor = 0;
        }
        SF_STORE(state->factor, factor);
        SF_STORE(state->lost, lost);
        SF_STORE(state->gained, 0);
        SF_STORE(state->pause, factor * lost);
        return;
    }
    alone = typical_piece(own) * region->pieces;
    if (!stopped && seconds < alone) {
        long gained = SF_LOAD(state->gained);
        if (gained < MOST_GAIN)
            SF_STORE(state->gained, gained + ticks(alone - seconds, LONGEST_LOSS));
    }
}
