#include "beyond.h"
#include "scalars.h"

enum { BY_TEMPERATURE = 1, BY_CLASS_WEIGHTS = 2, BY_PROBABILITIES = 4, BY_SCALE = 8 };

static int is_double_call(const sf_call *call) { return call->kernels == call->doubles; }

static int is_far_for_double(double temperature)
{
    return temperature < SF_DOUBLE_TEMPERATURE_MIN || temperature > SF_DOUBLE_TEMPERATURE_MAX;
}

static int is_far(const sf_call *call, double temperature)
{
    return is_double_call(call)
        ? is_far_for_double(temperature)
        : temperature < SF_FLOAT_TEMPERATURE_MIN || temperature > SF_FLOAT_TEMPERATURE_MAX;
}

/* A weight, target or scale of whose products with others alike float keeps the digits. */
static int is_within(double a) { return fabs(a) >= 0x1p-64 && fabs(a) <= 0x1p64; }
static int is_tame(double a) { return a == 0.0 || !isfinite(a) || is_within(a); }

/* The largest and the smallest but 0. */
typedef struct { double least, most; } extent;

static extent extent_of(const double *values, ptrdiff_t n)
{
    /* Four at a time: each waits for the one before. */
    double least[4] = {INFINITY, INFINITY, INFINITY, INFINITY}, most[4] = {0.0, 0.0, 0.0, 0.0};
    extent e = {1.0, 1.0};
    ptrdiff_t i = 0;
    for (; values && i + 4 <= n; i += 4)
        for (int k = 0; k < 4; k++) {
            least[k] = values[i + k] < least[k] ? values[i + k] : least[k];
            most[k] = values[i + k] > most[k] ? values[i + k] : most[k];
        }
    for (; values && i < n; i++) {
        least[0] = SF_MIN(least[0], values[i]);
        most[0] = SF_MAX(most[0], values[i]);
    }
    for (int k = 1; k < 4; k++) {
        least[0] = SF_MIN(least[0], least[k]);
        most[0] = SF_MAX(most[0], most[k]);
    }
    if (!(most[0] > 0.0))
        return e;
    if (least[0] == 0.0) {
        least[0] = INFINITY;
        for (i = 0; i < n; i++)
            least[0] = values[i] != 0.0 ? SF_MIN(least[0], values[i]) : least[0];
    }
    e.least = least[0];
    e.most = most[0];
    return e;
}

int sf_reach(const sf_call *call, int operation)
{
    const sf_targets *targets = call->targets;
    const sf_operation *o = &call->kernels->operations[operation];
    int reach = 0;
    if (o->entries)
        return 0;
    extent t = {call->temperature[0], call->temperature[0]};
    if (call->temperature_step)
        t = extent_of(call->temperature, call->n_rows);
    if (operation != SF_CROSS_ENTROPY && (is_far(call, t.least) || is_far(call, t.most)))
        reach |= BY_TEMPERATURE;
    if (is_double_call(call) || !(o->flags & SF_READS_TARGETS))
        return reach;
    extent w = extent_of(targets->class_weight, call->n_classes);
    if (!sf_is_hard_label(targets)) {
        if (!is_tame(w.least) || !is_tame(w.most)
            || !is_tame(targets->label_smoothing / (double)call->n_classes))
            reach |= BY_CLASS_WEIGHTS;
        if (!sf_has_labels(targets) && targets->probabilities.kind == SF_F64)
            reach |= BY_PROBABILITIES;
    }
    if (operation == SF_SOFTMAX_LOSS_GRAD || operation == SF_KL_DIVERGENCE_GRAD) {
        extent v = extent_of(targets->sample_weight, call->n_rows);
        if (!is_within(targets->gradient_scale * v.least * w.least / t.most)
            || !is_within(targets->gradient_scale * v.most * w.most / t.least))
            reach |= BY_SCALE;
    }
    return reach;
}

static int has_wild_probability(const sf_call *call, ptrdiff_t row)
{
    const sf_input *in = &call->targets->probabilities;
    const double *p = (const double *)in->data + sf_input_offset(call, in, row);
    for (ptrdiff_t c = 0; c < call->n_classes; c++)
        if (!is_tame(p[c * in->class_stride]))
            return 1;
    return 0;
}

int sf_is_beyond(const sf_call *call, int reach, ptrdiff_t row)
{
    const sf_targets *targets = call->targets;
    const double temperature = sf_temperature_of(call, row);
    sf_result ignored = sf_no_result();
    if ((reach & BY_TEMPERATURE) && is_far(call, temperature))
        return 1;
    if (!(reach & ~BY_TEMPERATURE) || !sf_row_counts(targets, row, call->n_classes, &ignored))
        return 0;
    if ((reach & BY_CLASS_WEIGHTS) || ((reach & BY_PROBABILITIES) && has_wild_probability(call, row)))
        return 1;
    return (reach & BY_SCALE)
        && !is_tame(targets->gradient_scale * sf_sample_weight(targets, row)
                    * sf_label_weight(targets, row) / temperature);
}

size_t sf_beyond_bytes(const sf_call *call)
{
    ptrdiff_t entries = call->n_classes + (call->indices ? call->n_indices : 0);
    return (size_t)(SF_ROUND_UP(entries * (ptrdiff_t)sizeof(double))
                    + SF_BLOCK_SCRATCH(call->n_classes, (ptrdiff_t)sizeof(double)));
}

static void put_entry(const sf_call *call, void *data, ptrdiff_t i, double value)
{
    if (is_double_call(call))
        ((double *)data)[i] = value;
    else
        ((float *)data)[i] = (float)value;
}

void sf_put_moments(const sf_call *call, ptrdiff_t row, double m)
{
    const ptrdiff_t offset = sf_input_offset(call, &call->x, row), step = call->x.class_stride;
    const ptrdiff_t at = call->first_row + row, y = (ptrdiff_t)sf_label(call->targets, row);
    const double temperature = sf_temperature_of(call, row);
    double sum = 0.0, mean = 0.0, variance = 0.0;
    for (ptrdiff_t c = 0; c < call->n_classes; c++)
        sum += exp(sf_quotient(sf_entry(&call->x, offset + c * step), m, temperature));
    for (int second = 0; second < 2; second++)
        for (ptrdiff_t c = 0; c < call->n_classes; c++) {
            double x = sf_entry(&call->x, offset + c * step), d = x - m - mean;
            double p = exp(sf_quotient(x, m, temperature)) / sum;
            if (p > 0.0 && second)
                variance += p * d * d;
            else if (p > 0.0)
                mean += p * (x - m);
        }
    call->columns->slope[at] = mean - (sf_entry(&call->x, offset + y * step) - m);
    call->columns->curvature[at] = variance;
}

/* (x - m)/T - (a - n)/T for maxima m and n, where one of them is finite. */
static double ratio_of(double x, double m, double a, double n, double temperature)
{
    const double d = (x - m) - (a - n);
    return isfinite(d) ? d / temperature : sf_quotient(x, m, temperature) - sf_quotient(a, n, temperature);
}

/* p ((x - m) - (a - n)) / temperature where what p is multiplied with is beyond double. */
static double weighted_ratio_of(double p, double x, double m, double a, double n, double temperature)
{
    const double quarter = (x / 4 - m / 4) - (a / 4 - n / 4), rate = p / temperature;
    return (isfinite(rate) ? rate * quarter : p * quarter / temperature) * 4;
}

/* 2 p log(2p/(p + q)) + 2 q log(2q/(p + q)), with the digits of a small difference q - p. */
static double shared_divergence(double p, double q, double difference)
{
    const double sum = p + q, z = fabs(difference) / sum, y = z * z;
    double series = 0.0;
    if (sum == 0.0 || z == 1.0)
        return sum * 1.3862943611198906; /* 2 log 2 */
    if (z >= 0.5)
        return sum * ((1.0 + z) * log1p(z) + (1.0 - z) * log1p(-z));
    for (int k = 26; k > 0; k--)
        series = series * y + 1.0 / (k * (2 * k - 1));
    return fabs(difference) * z * series;
}

double sf_divergence(const sf_call *call, ptrdiff_t row, void *gradient, ptrdiff_t step, double *more)
{
    const sf_input *base = &call->targets->probabilities;
    const ptrdiff_t offset = sf_input_offset(call, &call->x, row), n = call->n_classes;
    const ptrdiff_t base_offset = sf_input_offset(call, base, row);
    const double temperature = sf_temperature_of(call, row);
    const double scale = call->targets->gradient_scale * sf_sample_weight(call->targets, row);
    double m = -INFINITY, base_m = m, nan = 0.0;
    for (ptrdiff_t c = 0; c < n; c++) {
        const double x = sf_entry(&call->x, offset + c * call->x.class_stride);
        const double a = sf_entry(base, base_offset + c * base->class_stride);
        nan = x != x || a != a ? NAN : nan;
        m = SF_MAX(m, x);
        base_m = SF_MAX(base_m, a);
    }
    nan += (m - m) + (base_m - base_m);
    sf_sum sums[2] = {{0, 0}, {0, 0}}, terms = {0, 0}, differences = {0, 0};
    sf_sum measures[3] = {{0, 0}, {0, 0}, {0, 0}};
    double largest = 0.0;
    for (ptrdiff_t c = 0; c < n; c++) {
        const double x = sf_entry(&call->x, offset + c * call->x.class_stride);
        const double a = sf_entry(base, base_offset + c * base->class_stride);
        sf_sum_add(&sums[0], exp(sf_quotient(x, m, temperature)));
        sf_sum_add(&sums[1], exp(sf_quotient(a, base_m, temperature)));
    }
    const double sum = sf_sum_value(sums[0]), base_sum = sf_sum_value(sums[1]);
    double shift = log(sum / base_sum);
    for (int last = 0; last < (gradient || more ? 2 : 1); last++) {
        for (ptrdiff_t c = 0; c < n; c++) {
            const double x = sf_entry(&call->x, offset + c * call->x.class_stride);
            const double a = sf_entry(base, base_offset + c * base->class_stride);
            const double q = exp(sf_quotient(x, m, temperature)) / sum;
            const double p = exp(sf_quotient(a, base_m, temperature)) / base_sum;
            const double u = ratio_of(x, m, a, base_m, temperature) - shift;
            const double weighted = isfinite(u) ? p * u : weighted_ratio_of(p, x, m, a, base_m, temperature);
            double difference = q - p, h = difference - weighted;
            if (p == 0.0) {
                h = difference;
            } else if (fabs(u) < 1.0) {
                h = p * sf_expm1_excess(u);
                difference = h + p * u;
            }
            if (last && gradient)
                put_entry(call, gradient, c * step, scale * difference / temperature + nan);
            if (last && more) {
                const double other = isfinite(u) ? q * u
                                   : weighted_ratio_of(q, x, m, a, base_m, temperature);
                const double back = q == 0.0 ? p : fabs(u) < 1.0 ? difference * u - h : other - difference;
                sf_sum_add(&measures[0], back);
                sf_sum_add(&measures[1], shared_divergence(p, q, difference) / 4);
                sf_sum_add(&measures[2], fabs(difference) / 2);
                largest = SF_MAX(largest, fabs(difference));
            }
            if (last)
                continue;
            sf_sum_add(&terms, h);
            sf_sum_add(&differences, difference);
        }
        if (!last) {
            const double w = sf_sum_value(differences);
            shift += w - sf_log1p_excess(w);
        }
    }
    for (int i = 0; more && i < 3; i++)
        more[i] = sf_sum_value(measures[i]) + nan;
    double x, a;
    if (more)
        more[3] = largest + nan;
    if (more && sf_at_label(call, row, &x, &a)) {
        more[4] = ratio_of(x, m, a, base_m, temperature) - shift + nan;
        more[5] = exp(sf_quotient(a, base_m, temperature)) / base_sum + nan;
        more[6] = exp(sf_quotient(x, m, temperature)) / sum + nan;
    }
    const double divergence = sf_sum_value(terms) - sf_log1p_excess(sf_sum_value(differences)) + nan;
    return divergence < 0.0 ? 0.0 : divergence;
}

void sf_put_measures(const sf_call *call, ptrdiff_t row)
{
    const sf_measures *to = call->measures;
    const ptrdiff_t at = call->first_row + row;
    double more[7] = {0};
    to->kl[at] = sf_divergence(call, row, NULL, 0, more);
    to->reverse[at] = more[0];
    to->js[at] = more[1];
    to->total_variation[at] = more[2];
    to->largest[at] = more[3];
    sf_put_change(call, row, more[4], more[5], more[6]);
}

int sf_at_label(const sf_call *call, ptrdiff_t row, double *x, double *a)
{
    const sf_targets *labels = call->measures->labels;
    const sf_input *base = &call->targets->probabilities;
    const ptrdiff_t at = call->first_row + row;
    sf_result ignored = sf_no_result();
    if (!labels || !sf_row_counts(labels, at, call->n_classes, &ignored))
        return 0;
    const ptrdiff_t y = (ptrdiff_t)sf_label(labels, at);
    *x = sf_entry(&call->x, sf_input_offset(call, &call->x, row) + y * call->x.class_stride);
    *a = sf_entry(base, sf_input_offset(call, base, row) + y * base->class_stride);
    return 1;
}

double sf_log_ratio(double x, double a, sf_sum shift, double temperature)
{
    sf_sum d = {x, 0.0};
    sf_sum_add(&d, -a);
    sf_sum_add(&d, -shift.sum);
    return isfinite(d.sum) && isfinite(d.lost) ? (d.sum + (d.lost - shift.lost)) / temperature
        : ((0.5 * x - 0.5 * a) - 0.5 * shift.sum) / temperature * 2.0;
}

void sf_put_change(const sf_call *call, ptrdiff_t row, double log_ratio, double p, double q)
{
    const sf_measures *to = call->measures;
    if (!to->labels)
        return;
    const ptrdiff_t at = call->first_row + row;
    to->log_ratio[at] = log_ratio;
    to->change[at] = log_ratio < 0.0 ? p * expm1(log_ratio)
                   : log_ratio >= 0.0 ? -q * expm1(-log_ratio) : q - p; /* both 0, or NaN */
}

/* Of the only row of a call. */
static void put_divergence(const sf_call *call, int with_gradient, sf_result *result)
{
    const sf_targets *targets = call->targets;
    const double v = sf_sample_weight(targets, 0);
    double loss = 0.0;
    if (v != 0.0) {
        loss = sf_divergence(call, 0, with_gradient ? call->out.data : NULL, call->out.class_stride, NULL)
             * targets->loss_scale * v;
        sf_sum_add(&result->loss, loss);
        sf_sum_add(&result->weight, v);
    }
    for (ptrdiff_t c = 0; v == 0.0 && with_gradient && c < call->n_classes; c++)
        put_entry(call, call->out.data, c * call->out.class_stride, 0.0);
    if (targets->row_losses)
        put_entry(call, targets->row_losses, 0, loss);
}

/* Prediction and rank by the entries: of their quotients by T more may be equal. */
static void put_order(const sf_call *call, ptrdiff_t row, double m)
{
    const sf_columns *to = call->columns;
    const ptrdiff_t offset = sf_input_offset(call, &call->x, row), step = call->x.class_stride;
    const ptrdiff_t n = call->n_classes, at = call->first_row + row;
    ptrdiff_t top = -1, before = 0;
    const ptrdiff_t y = to->rank && to->rank[at] >= 0 ? (ptrdiff_t)sf_label(call->targets, row) : -1;
    const double x_y = y >= 0 ? sf_entry(&call->x, offset + y * step) : INFINITY;
    for (ptrdiff_t c = 0; c < n; c++) {
        const double x = sf_entry(&call->x, offset + c * step);
        if (x != x)
            return;
        top = top < 0 && x == m ? c : top;
        before += x > x_y || (x == x_y && c < y);
    }
    if (to->prediction)
        to->prediction[at] = top;
    if (y >= 0)
        to->rank[at] = before;
}

/* Where even double does not reach T, the row is replaced by that of (x - m)/T at T = 1, m its maximum
 * or the shift given. */
void sf_run_beyond(const sf_call *call, int operation, ptrdiff_t row, sf_result *result, void *scratch)
{
    const ptrdiff_t n = call->n_classes;
    double *x = (double *)scratch, *chosen = x + n;
    void *more = (char *)scratch + sf_beyond_bytes(call)
               - SF_BLOCK_SCRATCH(n, (ptrdiff_t)sizeof(double));
    const double given = sf_temperature_of(call, row), one = 1.0;
    const double shift = operation == SF_EXPONENTIALS ? call->row_max[row] : 0.0, no_shift = 0.0;
    const int replaced = is_far_for_double(given);
    double m = operation == SF_EXPONENTIALS ? shift : -INFINITY, lse = 0.0, loss = 0.0;
    sf_targets targets;
    sf_result found = sf_no_result();
    sf_call own = sf_rows_from(call, row, &targets);
    if (operation == SF_KL_DIVERGENCE || operation == SF_KL_DIVERGENCE_GRAD) {
        put_divergence(&own, operation == SF_KL_DIVERGENCE_GRAD, result);
        return;
    }
    if (operation == SF_MEASURES) {
        sf_put_measures(&own, 0);
        return;
    }
    const sf_output out = own.out;
    const sf_sink sink = {&found, 0, 0, NULL};

    for (ptrdiff_t c = 0; c < n; c++) {
        x[c] = sf_entry(&own.x, c * own.x.class_stride);
        if (operation != SF_EXPONENTIALS && x[c] > m)
            m = x[c];
    }
    const int shifted = replaced && isfinite(m);
    for (ptrdiff_t c = 0; shifted && c < n; c++)
        x[c] = x[c] <= m ? sf_quotient(x[c], m, given) : x[c];

    own.kernels = call->doubles;
    own.x.data = x;
    own.x.kind = SF_F64;
    own.x.class_stride = 1;
    own.n_rows = own.inner = 1;
    own.temperature_step = 0;
    own.temperature = replaced ? &one : &given;
    own.stream = own.prefetch = 0;
    own.out.data = operation == SF_LOGSUMEXP ? &lse : call->indices ? chosen : x;
    own.out.class_stride = 1;
    if (operation == SF_EXPONENTIALS)
        own.row_max = (double *)(shifted ? &no_shift : &shift);
    if (call->targets && targets.row_losses)
        targets.row_losses = &loss;
    if (!call->out.data)
        own.out.data = NULL;
    own.kernels->walk(&own, &own.kernels->operations[operation], 0, 1, sink, more, NULL, 1);

    if (result) {
        sf_sum_merge(&result->loss, found.loss);
        sf_sum_merge(&result->weight, found.weight);
        if (result->bad_label_row < 0 && found.bad_label_row >= 0)
            result->bad_label_row = row;
        if (result->bad_value_row < 0 && found.bad_value_row >= 0)
            result->bad_value_row = row;
    }
    if (call->targets && call->targets->row_losses)
        put_entry(call, call->targets->row_losses, row, loss);
    if (operation == SF_ROW_STATISTICS) {
        if (shifted && call->columns->logsumexp)
            call->columns->logsumexp[call->first_row + row] += m / given;
        if (shifted)
            put_order(call, row, m);
        if (shifted && call->columns->loss && call->columns->rank[call->first_row + row] >= 0)
            sf_put_moments(call, row, m);
    } else if (operation == SF_LOGSUMEXP) {
        put_entry(call, out.data, 0, shifted ? m / given + lse : lse);
    } else if (operation == SF_MAXIMUM_AND_REST) {
        if (shifted)
            call->row_max[row] = m;
    } else if (call->indices) {
        for (ptrdiff_t k = 0; k < call->n_indices; k++)
            if ((own.indices[k] >= 0 && own.indices[k] < n)
                || (targets.has_ignore_index && own.indices[k] == targets.ignore_index))
                put_entry(call, out.data, k, chosen[k]);
    } else if (out.data) {
        const double factor = operation == SF_SOFTMAX_LOSS_GRAD && replaced ? given : 1.0;
        for (ptrdiff_t c = 0; c < n; c++)
            put_entry(call, out.data, c * out.class_stride, x[c] / factor);
    }
}
