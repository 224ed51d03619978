/* The parallel loops under ThreadSanitizer: every operation on several threads, for every
 * instruction set that runs here, alone and from several callers at a time on shared inputs.
 *
 *   clang -std=c11 -O1 -g -ffp-contract=off -fsanitize=thread -fopenmp -I softmax_fast/kernels \
 *      -o race tests/native/race.c softmax_fast/kernels/[a-d]*[!i].c softmax_fast/kernels/units/[a-n]*.c -lm
 *   OMP_TOOL_LIBRARIES=libarcher.so ./race
 *
 * Clang's OpenMP runtime is not instrumented: its tool Archer tells the sanitizer of forks, joins
 * and barriers.  Results on several threads must also have the bits of those on one.  With --racy
 * all threads write to one place, to show that a race is found.  Exits 0 when all is well. */
#include "common.h"
#include "adapt.h"
#include "atomic.h"
#include <pthread.h>

enum { THREADS = 4, CALLERS = 3, N_INDICES = 2 };

static sf_adapt adaptive;

/* As the module's: every third call chooses its threads by what the others found, which share the state. */
static void omp_for(sf_body *body, void *context, ptrdiff_t n_pieces, int n_workers)
{
    int omp_get_thread_num(void);
    double omp_get_wtime(void);
    static long n_calls;
    const int chooses = SF_ADD(n_calls, 1) % 3 == 0;
    double started = omp_get_wtime();
    int n = chooses ? sf_adapt_enter(&adaptive, n_workers) : n_workers;
    sf_region region = sf_region_begin(n_pieces, n, started);
#pragma omp parallel for num_threads(n) schedule(dynamic)
    for (ptrdiff_t piece = 0; piece < n_pieces; piece++) {
        int worker = omp_get_thread_num();
        body(context, piece, worker);
        if (!worker)
            sf_took_piece(&region.own, omp_get_wtime());
        else if (worker == 1)
            sf_took_piece(&region.other, omp_get_wtime());
    }
    if (n == 1)
        sf_adapt_alone(&adaptive, omp_get_wtime() - started);
    else
        sf_adapt_learn(&adaptive, &region, omp_get_wtime());
    if (chooses)
        sf_adapt_leave(&adaptive);
}

/* ---- one input, which all callers and threads read ------------------------------------------- */

/* Layout of the logits and of the output, as what lies next to an entry. */
enum { CLASSES_ADJACENT, ROWS_ADJACENT };

typedef struct {
    int kind, layout, stream;
    ptrdiff_t n, rows;
    void *x, *targets, *probabilities;
    int32_t *labels32;
    int64_t *labels64, *indices;
    double *temperatures, *weights, *sample_weights;
} problem;

typedef struct { /* what one caller writes */
    void *out, *losses;
    double *row_max, *row_rest;
    statistics statistics;
} results;

static problem new_problem(int kind, ptrdiff_t rows, ptrdiff_t n, int layout, int stream)
{
    problem p = {.kind = kind, .layout = layout, .stream = stream, .n = n, .rows = rows};
    size_t r = (size_t)rows, entries = r * (size_t)n;
    random_state = (uint64_t)(rows * 31 + n);
    p.x = allocated(entries * item_size(kind));
    p.targets = allocated(entries * result_size(kind));
    p.probabilities = allocated(entries * item_size(kind));
    p.labels32 = allocated(r * sizeof *p.labels32);
    p.labels64 = allocated(r * sizeof *p.labels64);
    p.indices = allocated(N_INDICES * r * sizeof *p.indices);
    p.temperatures = allocated(r * sizeof(double));
    p.sample_weights = allocated(r * sizeof(double));
    p.weights = allocated((size_t)n * sizeof(double));
    for (size_t i = 0; i < entries; i++) {
        put(p.x, (ptrdiff_t)i, kind, 8 * uniform() - 4);
        put(p.targets, (ptrdiff_t)i, result_kind(kind), uniform());
        put(p.probabilities, (ptrdiff_t)i, kind, uniform());
    }
    for (ptrdiff_t i = 0; i < rows; i++) {
        p.labels64[i] = p.labels32[i] = i % 7 == 1 ? -100 : (int32_t)(uniform() * (double)n);
        for (ptrdiff_t k = 0; k < N_INDICES; k++)
            p.indices[i * N_INDICES + k] = (int64_t)(uniform() * (double)n);
        p.temperatures[i] = i % 97 == 1 ? 1e-40 : 0.5 + uniform(); /* some beyond the reach of float */
        p.sample_weights[i] = uniform();
    }
    for (ptrdiff_t c = 0; c < n; c++)
        p.weights[c] = uniform();
    return p;
}

static void free_problem(problem *p)
{
    void *all[] = {p->x, p->targets, p->probabilities, p->labels32, p->labels64, p->indices,
                   p->temperatures, p->weights, p->sample_weights};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
}

static results new_results(const problem *p)
{
    size_t r = (size_t)p->rows, entries = r * (size_t)p->n;
    results o;
    o.out = allocated((entries + r * N_INDICES) * result_size(p->kind));
    o.losses = allocated((entries + r) * result_size(p->kind));
    o.row_max = allocated(r * sizeof(double));
    o.row_rest = allocated(r * sizeof(double));
    o.statistics = new_statistics(r);
    return o;
}

static void free_results(results *o)
{
    free(o->out);
    free(o->losses);
    free(o->row_max);
    free(o->row_rest);
    free_statistics(&o->statistics);
}

/* ---- the calls ------------------------------------------------------------------------------- */

static sf_input input(const problem *p, const void *data, int kind)
{
    sf_input in = {data, 0, p->n, 1, kind};
    if (p->layout == ROWS_ADJACENT) {
        in.row_stride = 1;
        in.class_stride = p->rows;
    }
    return in;
}

/* An operation, and for losses of rows what they compare with. */
typedef struct { int operation, of_probabilities; } task;

static sf_result run(const problem *p, results *o, task which, int n_threads, int *status)
{
    const int operation = which.operation;
    const int reads_probabilities = operation == SF_CROSS_ENTROPY
                                 || operation == SF_BINARY_CROSS_ENTROPY;
    sf_result result = sf_no_result();
    sf_targets t = sf_no_targets();
    sf_input x = input(p, reads_probabilities ? p->probabilities : p->x, p->kind);
    sf_input probabilities = input(p, p->targets, result_kind(p->kind));
    sf_output out = {o->out, 0, x.row_stride, x.class_stride};
    sf_output one_a_row = {o->out, 0, operation == SF_SELECTED_LOG_PROBS ? N_INDICES : 1, 1};
    ptrdiff_t rows = p->rows, n = p->n;
    sf_call call;

    if (is_binary(operation)) {
        rows *= n;
        n = x.row_stride = x.class_stride = 1; /* entries are contiguous */
        probabilities.row_stride = probabilities.class_stride = 1;
    }
    sf_begin(&call, x, rows, rows, n, n_threads);
    call.targets = &t;
    call.temperature = p->temperatures;
    call.temperature_step = operation % 2 && !is_binary(operation);
    if (writes_classes(operation)) {
        sf_write_to(&call, out);
        call.stream = p->stream;
    } else if (operation == SF_LOGSUMEXP || operation == SF_SELECTED_LOG_PROBS
               || is_binary(operation)) {
        call.out = one_a_row;
    }
    if (operation == SF_SELECTED_LOG_PROBS) {
        call.indices = p->indices;
        call.n_indices = N_INDICES;
    }
    if (operation == SF_MAXIMUM_AND_REST || operation == SF_EXPONENTIALS) {
        call.row_max = o->row_max;
        call.row_rest = o->row_rest;
        for (ptrdiff_t r = 0; r < rows; r++) {
            o->row_max[r] = 4; /* no less than the maximum */
            o->row_rest[r] = 1;
        }
    }
    call.columns = &o->statistics.columns;
    call.measures = &o->statistics.measures;
    t.has_ignore_index = 1;
    t.ignore_index = -100;
    if (is_binary(operation)) {
        t.probabilities = probabilities;
    } else {
        t.row_losses = o->losses;
        t.sample_weight = p->sample_weights;
        if (which.of_probabilities) {
            t.probabilities = probabilities;
            t.class_weight = p->weights;
            t.label_smoothing = operation == SF_CROSS_ENTROPY ? 0 : 0.125;
        } else if (is_divergence(operation)) {
            t.probabilities = probabilities;
        } else if (operation == SF_SOFTMAX_LOSS) {
            t.labels32 = p->labels32;
        } else {
            t.labels64 = p->labels64;
        }
    }
    *status = sf_run(&call, operation, &result);
    return result;
}

/* ---- several callers at a time --------------------------------------------------------------- */

typedef struct {
    const problem *p;
    task which;
    int failed;
    const results *expected;
    sf_result expected_result;
} caller;

static int same(const problem *p, const results *a, const results *b)
{
    size_t r = (size_t)p->rows, entries = r * (size_t)p->n, size = result_size(p->kind);
    return !memcmp(a->out, b->out, (entries + r * N_INDICES) * size)
        && !memcmp(a->losses, b->losses, (entries + r) * size)
        && !memcmp(a->row_max, b->row_max, r * sizeof(double))
        && !memcmp(a->row_rest, b->row_rest, r * sizeof(double))
        && same_statistics(&a->statistics, &b->statistics);
}

static void *call_and_compare(void *argument)
{
    caller *c = argument;
    results own = new_results(c->p);
    int status = SF_OK;
    sf_result result = run(c->p, &own, c->which, THREADS, &status);
    c->failed = status != SF_OK || !same(c->p, &own, c->expected)
             || result.bad_label_row != c->expected_result.bad_label_row
             || sf_sum_value(result.loss) != sf_sum_value(c->expected_result.loss)
             || sf_sum_value(result.weight) != sf_sum_value(c->expected_result.weight);
    free_results(&own);
    return NULL;
}

static long calls;

static void from_several(const problem *p, task which, const results *expected, sf_result result,
                         int n_callers)
{
    pthread_t threads[CALLERS];
    caller callers[CALLERS];
    for (int i = 0; i < n_callers; i++) {
        caller c = {p, which, 0, expected, result};
        callers[i] = c;
        if (n_callers == 1)
            call_and_compare(&callers[i]);
        else if (pthread_create(&threads[i], NULL, call_and_compare, &callers[i]))
            exit(1);
    }
    for (int i = 0; i < n_callers; i++) {
        if (n_callers > 1)
            pthread_join(threads[i], NULL);
        calls++;
        if (callers[i].failed)
            fail("not as on one thread");
    }
}

static void check(int kind, ptrdiff_t rows, ptrdiff_t n, int layout, int stream)
{
    problem p = new_problem(kind, rows, n, layout, stream);
    for (int i = 0; i < 2 * SF_N_OPERATIONS; i++) {
        task which = {i / 2, i % 2};
        int flags = kernels_of(kind)->operations[which.operation].flags, status = SF_OK;
        if (which.of_probabilities && !(flags & SF_READS_TARGETS))
            continue;
        set_context("%s%s, %s, %ld x %ld, layout %d, stream %d", operation_names[which.operation],
                    which.of_probabilities ? " of probabilities" : "", kind_name(kind), (long)rows,
                    (long)n, layout, stream);
        results expected = new_results(&p);
        sf_result result = run(&p, &expected, which, 1, &status);
        from_several(&p, which, &expected, result, 1);
        if (!layout && !stream)
            from_several(&p, which, &expected, result, CALLERS);
        free_results(&expected);
    }
    free_problem(&p);
}

/* What the first callers write for all: the tables in use and the size of the cache. */
static void *first_call(void *p)
{
    const task which = {SF_SOFTMAX, 0};
    results own = new_results(p);
    int status;
    run(p, &own, which, 1, &status);
    free_results(&own);
    return NULL;
}

static void check_first_calls(void)
{
    pthread_t threads[CALLERS];
    problem p = new_problem(SF_F32, 4, 10, CLASSES_ADJACENT, 0);
    for (int i = 0; i < CALLERS; i++)
        if (pthread_create(&threads[i], NULL, first_call, &p))
            exit(1);
    for (int i = 0; i < CALLERS; i++)
        pthread_join(threads[i], NULL);
    free_problem(&p);
}

static void racy_body(void *context, ptrdiff_t piece, int worker)
{
    ptrdiff_t *shared = context;
    (void)worker;
    shared[0] += piece;
}

int main(int argc, char **argv)
{
    ptrdiff_t sum = 0;
    setvbuf(stdout, NULL, _IOLBF, 4096);
    if (argc > 1 && !strcmp(argv[1], "--racy")) {
        adaptive = sf_adapt_new(THREADS);
        omp_for(racy_body, &sum, 10000, THREADS);
        printf("sum %ld\n", (long)sum);
        return 0;
    }
    adaptive = sf_adapt_new(THREADS);
    sf_set_parallel_for(omp_for);
    check_first_calls();
    find_isas(0, NULL);
    for (int i = 0; choose(i); i++) {
        calls = 0;
        for (int kind = SF_F32; kind <= SF_BF16; kind++) {
            check(kind, 7001, 10, CLASSES_ADJACENT, 0);
            check(kind, 301, 257, CLASSES_ADJACENT, 0);
            check(kind, 3, 40003, CLASSES_ADJACENT, 0); /* each row in pieces */
            if (kind > SF_F64)
                continue;
            check(kind, 7001, 10, ROWS_ADJACENT, 0);
            check(kind, 129, 1000, ROWS_ADJACENT, 0);
            check(kind, 3, 40003, ROWS_ADJACENT, 0);
            check(kind, 129, 1000, CLASSES_ADJACENT, 1);
            check(kind, 1, 70001, CLASSES_ADJACENT, 1);
        }
        printf("%s: %ld calls on %d threads\n", tables->isa, calls, THREADS);
    }
    return failures != 0;
}
