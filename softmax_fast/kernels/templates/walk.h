/* The one walk through the rows, for all operations.  Which arithmetic a row has is chosen by its
 * length alone, so that its bits never depend on its surroundings:
 *   tile    rows of up to SF_SHORT_ROW entries side by side, or one by one where they are few
 *   blocks  longer rows, in blocks of BLOCK entries that are merged in order
 *   panel   longer rows that are not contiguous: some are copied together, then as above */

/* log_sum of rows whose sums have the digits of this type, and of what fills their last vector. */
static SF_NOINLINE void take_logs(sf_batch *batch, ptrdiff_t count)
{
    for (ptrdiff_t i = count; i % LANES; i++)
        batch->max[i] = batch->rest[i] = 0.0;
    for (ptrdiff_t i = 0; i < count; i += LANES) {
        const vec m = vload_doubles(batch->max + i), log_sum = log1p_of(vload_doubles(batch->rest + i));
        vstore_doubles(batch->log_sum + i, vadd(log_sum, vsub(m, m)));
    }
}

static void finish_rows(const sf_call *call, const sf_operation *operation, ptrdiff_t first,
                        ptrdiff_t count, sf_batch *batch, sf_sink sink)
{
    if (operation->flags & SF_TAKES_LOGS) {
        if (SF_DOUBLE || call->n_classes <= SF_SHORT_ROW) {
            take_logs(batch, count);
        } else {
            log1p_doubles(batch->rest, batch->log_sum, count);
            for (ptrdiff_t i = 0; i < count; i++)
                batch->log_sum[i] += batch->max[i] - batch->max[i];
        }
    }
    if (!operation->finish)
        return;
    if (!sink.each_row || !sink.results) {
        operation->finish(call, first, count, batch, 0, sink.results);
        return;
    }
    for (ptrdiff_t i = 0; i < count; i++)
        operation->finish(call, first + i, 1, batch, i, sink.results + (first + i - sink.first));
}

/* The most that short rows take; what is called with it takes some 10 KiB more. */
_Static_assert(sizeof(sf_tile) + sizeof(sf_batch) + sizeof(divergence_room) <= 90 * 1024,
               "tiles of short rows overflow narrow stacks");

static SF_NOINLINE void walk_short_rows(const sf_call *call, const sf_operation *operation,
                                        ptrdiff_t first, ptrdiff_t count, sf_sink sink)
{
    sf_tile tile;
    SF_ALIGNED(64) sf_batch batch;
    const ptrdiff_t n = call->n_classes, end = first + count;
    sf_row_sums own = {{{0.0}, {0.0}}, {{0.0}, {0.0}}};
    batch.sums = sink.sums ? sink.sums : &own;
    if (!call->temperature_step && !one_by_one(n, count))
        tile_temperatures(&tile, call, first, count);
    if ((operation->flags & SF_READS_TARGETS) && !sf_is_hard_label(call->targets))
        mix_targets(&tile, call);
    const int writes = operation->tile_out != NULL;
    /* Tiles that will be written stay side by side until then; but temperatures are kept of one only. */
    const ptrdiff_t room = call->temperature_step ? 0 : TILE_ENTRIES;
    for (ptrdiff_t filled; first < end; first += filled) {
        ptrdiff_t used = 0, some;
        int by_itself = 0;
        for (filled = 0; first + filled < end && filled < SF_BATCH; filled += some) {
            const ptrdiff_t row = first + filled;
            const int width = tile_width(n, end - row);
            some = SF_MIN(width * LANES, end - row);
            by_itself = width == 1 && one_by_one(n, some);
            if (writes && filled && (by_itself || used + n * width * LANES > room)) {
                by_itself = 0;
                break;
            }
            place_tile(&tile, used);
            if (by_itself) {
                some = 1;
                if (operation->row)
                    operation->row(&tile, call, row, &batch, filled);
                if (writes) {
                    filled = 1;
                    break;
                }
                continue;
            }
            if (operation->tile)
                operation->tile(&tile, call, row, some, width, &batch, filled);
            used += writes ? n * width * LANES : 0;
        }
        finish_rows(call, operation, first, filled, &batch, sink);
        if (writes && by_itself) {
            operation->row_out(&tile, call, first, &batch, 0);
            continue;
        }
        used = 0;
        for (ptrdiff_t at = 0; writes && at < filled; at += some) {
            const int width = tile_width(n, end - first - at);
            some = SF_MIN(width * LANES, end - first - at);
            place_tile(&tile, used);
            operation->tile_out(&tile, call, first + at, some, width, &batch, at);
            used += n * width * LANES;
        }
    }
    if (sink.results && !sink.sums && (operation->flags & SF_READS_TARGETS))
        sf_fold_row_sums(sink.results, &own, count);
}

typedef struct { const sf_long_row *row; sf_block_step *step; ptrdiff_t piece_blocks; } row_in_pieces;

static void run_piece(void *context, ptrdiff_t piece, int worker)
{
    const row_in_pieces *p = (const row_in_pieces *)context;
    ptrdiff_t first = piece * p->piece_blocks;
    ptrdiff_t count = SF_MIN(p->piece_blocks, p->row->n_blocks - first);
    sf_environment found = sf_enter();
    (void)worker;
    if (count > 0)
        p->step(p->row, first, count);
    if (p->row->call->stream)
        SF_STREAM_FENCE();
    sf_leave(found);
}

SF_INLINE void in_pieces(const sf_long_row *row, sf_block_step *step, sf_parallel_for *loop,
                         int n_threads)
{
    if (!loop) {
        step(row, 0, row->n_blocks);
        return;
    }
    row_in_pieces context = {row, step, (row->n_blocks + n_threads - 1) / n_threads};
    loop(run_piece, &context, n_threads, n_threads);
}

SF_INLINE void clear_row(const sf_call *call, ptrdiff_t row)
{
    real *out = out_at(call, row);
    for (ptrdiff_t c = 0; c < call->n_classes; c++)
        out[c * call->out.class_stride] = 0;
}

static SF_NOINLINE void walk_long_rows(const sf_call *call, const sf_operation *operation,
                                       ptrdiff_t first, ptrdiff_t count, sf_sink sink, void *scratch,
                                       sf_parallel_for *loop, int n_threads)
{
    SF_ALIGNED(64) sf_batch batch;
    batch.sums = NULL;
    const ptrdiff_t n = call->n_classes, n_blocks = (n + BLOCK - 1) / BLOCK, end = first + count;
    const int reads_targets = operation->flags & SF_READS_TARGETS;
    const int waits = operation->flags & SF_WAITS_IN_OUT;
    double *numbers = (double *)scratch;
    sf_temperature t = row_temperature(call, first);
    sf_long_row r = {call, &t, first, n_blocks,
                     {numbers, numbers + n_blocks, numbers + 2 * n_blocks, numbers + 3 * n_blocks,
                      numbers + 4 * n_blocks, numbers + 5 * n_blocks, numbers + 6 * n_blocks},
                     NULL, &batch, 0};
    const int to_stream = waits && !loop && call->stream && call->out.class_stride == 1
        && n * REAL_BYTES <= SF_STREAM_ROW_BYTES;
    char *const exponentials = (char *)scratch + SF_BLOCK_SCRATCH(n, REAL_BYTES);
    /* Rows that are read again are still near.  The numbers of blocks are of one row, but that of the
     * only one is known. */
    const ptrdiff_t together = !operation->block_out ? SF_BATCH : waits && n_blocks > 1 ? 1
        : sf_rows_together(n, REAL_BYTES);
    for (ptrdiff_t some; first < end; first += some) {
        some = SF_MIN(together, end - first);
        if (reads_targets)
            read_labels(call, first, some, &batch, 0);
        for (r.at = 0; operation->block && r.at < some; r.at++) {
            r.row = first + r.at;
            if (reads_targets && batch.y[r.at] < 0) {
                batch.max[r.at] = batch.rest[r.at] = batch.quotient[r.at] = 0.0;
                continue;
            }
            if (call->temperature_step)
                t = row_temperature(call, r.row);
            if (to_stream)
                r.exponentials = exponentials + r.at * SF_ROUND_UP(n * REAL_BYTES);
            in_pieces(&r, operation->block, loop, n_threads);
            operation->merge(&r);
            if (operation->again) {
                in_pieces(&r, operation->again, loop, n_threads);
                operation->merge_again(&r);
            }
        }
        finish_rows(call, operation, first, some, &batch, sink);
        for (r.at = 0; operation->block_out && r.at < some; r.at++) {
            r.row = first + r.at;
            if (reads_targets && batch.y[r.at] < 0) {
                clear_row(call, r.row);
                continue;
            }
            if (call->temperature_step)
                t = row_temperature(call, r.row);
            if (to_stream)
                r.exponentials = exponentials + r.at * SF_ROUND_UP(n * REAL_BYTES);
            in_pieces(&r, operation->block_out, loop, n_threads);
        }
    }
    if (call->stream)
        SF_STREAM_FENCE();
}

static SF_NOINLINE void walk_panels(const sf_call *call, const sf_operation *operation,
                                    ptrdiff_t panel_rows, ptrdiff_t first, ptrdiff_t count,
                                    sf_sink sink, void *scratch)
{
    real *panel = (real *)scratch;
    for (ptrdiff_t end = first + count; first < end; first += panel_rows) {
        const ptrdiff_t some = SF_MIN(panel_rows, end - first), n = call->n_classes;
        sf_targets targets;
        sf_call view = sf_rows_from(call, first, &targets);
        sf_sink to = {sink.results, 0, sink.each_row, NULL};
        if (sink.results && sink.each_row)
            to.results += first - sink.first;
        sf_result before = sink.each_row || !sink.results ? sf_no_result() : *sink.results;
        view.x.data = panel;
        view.x.kind = SF_DOUBLE ? SF_F64 : SF_F32;
        view.x.class_stride = 1;
        view.x.row_stride = n;
        if (operation->block_out) {
            view.out.data = panel;
            view.out.class_stride = 1;
            view.out.row_stride = n;
        }
        view.stream = view.prefetch = 0;
        load_panel(call, first, some, panel);
        walk_long_rows(&view, operation, 0, some, to,
                       (char *)scratch + SF_PANEL_SCRATCH(n, REAL_BYTES), NULL, 1);
        if (operation->block_out)
            store_panel(call, first, some, panel);
        for (ptrdiff_t i = 0; to.results && i < (to.each_row ? some : 1); i++) {
            if (before.bad_label_row < 0 && to.results[i].bad_label_row >= 0)
                to.results[i].bad_label_row += first;
            if (before.bad_value_row < 0 && to.results[i].bad_value_row >= 0)
                to.results[i].bad_value_row += first;
        }
    }
    if (call->stream)
        SF_STREAM_FENCE();
}

static void walk(const sf_call *call, const sf_operation *operation, ptrdiff_t first, ptrdiff_t count,
                 sf_sink sink, void *scratch, sf_parallel_for *loop, int n_threads)
{
    if (operation->entries) {
        operation->entries(call, first, count, sink.results);
    } else if (call->n_classes <= SF_SHORT_ROW) {
        walk_short_rows(call, operation, first, count, sink);
    } else {
        ptrdiff_t panel_rows = loop ? 0 : rows_of_a_panel(call);
        if (panel_rows && (operation->block_out || (panel_rows > 1 && count > 1)))
            walk_panels(call, operation, panel_rows, first, count, sink, scratch);
        else
            walk_long_rows(call, operation, first, count, sink, scratch, loop, n_threads);
    }
}
