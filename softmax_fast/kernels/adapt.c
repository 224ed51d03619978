#include "adapt.h"
#include "atomic.h"

#define TICKS_PER_SECOND 1e7

enum {
    AFTER_A_HICCUP = 2,
    LEAST_FACTOR = 8,
    MOST_FACTOR = 64,
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

void sf_adapt_learn(sf_adapt *state, const sf_region *region, double now)
{
    if (region->own_pieces == 0.0)
        return;
    double seconds = now - region->started, busy = region->busy;
    double alone = busy / region->own_pieces * region->pieces;
    if (seconds > alone) {
        long lost = ticks(seconds - alone, LONGEST_LOSS), before = SF_LOAD(state->lost);
        if (!lost)
            return;
        long gained = SF_LOAD(state->gained), factor = LEAST_FACTOR;
        if (gained < before) {
            factor = 2 * SF_LOAD(state->factor);
            factor = factor < LEAST_FACTOR ? LEAST_FACTOR : factor < MOST_FACTOR ? factor : MOST_FACTOR;
        } else if (gained - before >= lost) {
            factor = AFTER_A_HICCUP;
        }
        SF_STORE(state->factor, factor);
        SF_STORE(state->lost, lost);
        SF_STORE(state->gained, 0);
        SF_STORE(state->pause, factor * lost);
        return;
    }
    /* The calling thread may itself have been without a core during one of its pieces: then that is
     * the longest, or it had half its part of the pieces or less. */
    if (region->own_pieces * region->workers * 2.0 <= region->pieces)
        return;
    if (region->own_pieces > 1.0)
        alone = (busy - region->longest) / (region->own_pieces - 1.0) * region->pieces;
    if (seconds < alone) {
        long gained = SF_LOAD(state->gained);
        if (gained < MOST_GAIN)
            SF_STORE(state->gained, gained + ticks(alone - seconds, LONGEST_LOSS));
    }
}
