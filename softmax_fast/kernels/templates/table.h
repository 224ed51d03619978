/* The operations, and the table of this instruction set and dtype. */

static void exp_hook(const void *x, void *out, ptrdiff_t n)
{
    exp_array((const real *)x, (real *)out, n, sf_make_rate(1.0));
}

static void log1p_hook(const void *x, void *out, ptrdiff_t n)
{
    log1p_array((const real *)x, (real *)out, n);
}

static void sums_hook(const double *x, ptrdiff_t n, sf_sum *sum, sf_sum *squares)
{
    sums_of_doubles(x, n, sum, squares);
}

const sf_kernels SF_KERNELS = {
    .isa = SF_STRINGIFY(SF_ISA),
    .item_size = REAL_BYTES,
    .block = BLOCK,
    .walk = walk,
    .operations = {
        [SF_SOFTMAX] = {
            .tile = softmax_tile, .tile_out = softmax_tile_out,
            .row = softmax_row, .row_out = softmax_row_out,
            .block = softmax_blocks, .merge = merge_statistics, .block_out = softmax_blocks_out,
            .flags = SF_STREAMS | SF_WAITS_IN_OUT,
        },
        [SF_LOG_SOFTMAX] = {
            .tile = log_softmax_tile, .tile_out = log_softmax_tile_out,
            .row = summarize_row, .row_out = log_softmax_row_out,
            .block = log_softmax_blocks, .merge = merge_statistics, .block_out = log_softmax_blocks_out,
            .flags = SF_TAKES_LOGS | SF_STREAMS,
        },
        [SF_LOGSUMEXP] = {
            .tile = summarize_tile, .row = summarize_row,
            .block = summarize_blocks, .merge = merge_statistics,
            .finish = logsumexp_finish, .flags = SF_TAKES_LOGS,
        },
        [SF_SOFTMAX_LOSS] = {
            .tile = loss_tile, .row = loss_row,
            .block = loss_blocks, .merge = merge_loss,
            .finish = loss_finish, .flags = SF_TAKES_LOGS | SF_READS_TARGETS,
        },
        [SF_SOFTMAX_LOSS_GRAD] = {
            .tile = gradient_tile, .tile_out = gradient_tile_out,
            .row = loss_row, .row_out = gradient_row_out,
            .block = gradient_blocks, .merge = merge_gradient, .block_out = gradient_blocks_out,
            .finish = gradient_finish,
            .flags = SF_TAKES_LOGS | SF_READS_TARGETS | SF_STREAMS | SF_WAITS_IN_OUT,
        },
        [SF_CROSS_ENTROPY] = {
            .tile = cross_entropy_tile, .row = cross_entropy_row,
            .block = cross_entropy_blocks, .merge = merge_cross_entropy,
            .finish = cross_entropy_finish, .flags = SF_READS_TARGETS,
        },
        [SF_SELECTED_LOG_PROBS] = {
            .tile = summarize_tile, .row = summarize_row,
            .block = summarize_blocks, .merge = merge_statistics,
            .finish = selected_finish, .flags = SF_TAKES_LOGS,
        },
        [SF_MAXIMUM_AND_REST] = {
            .tile = summarize_tile, .row = summarize_row,
            .block = summarize_blocks, .merge = merge_statistics,
            .finish = maximum_and_rest_finish,
        },
        [SF_ROW_STATISTICS] = {
            .tile = statistics_tile, .row = statistics_row,
            .block = statistics_blocks, .merge = merge_moments,
            .finish = statistics_finish, .flags = SF_TAKES_LOGS,
        },
        [SF_EXPONENTIALS] = {
            .tile_out = exponentials_tile_out, .row_out = exponentials_row_out,
            .block_out = exponentials_blocks_out,
        },
        [SF_KL_DIVERGENCE] = {
            .tile = divergence_tile, .row = divergence_row,
            .block = divergence_blocks, .merge = merge_divergence,
            .finish = divergence_finish, .flags = SF_READS_TARGETS,
        },
        [SF_KL_DIVERGENCE_GRAD] = {
            .tile = divergence_and_gradient_tile, .tile_out = divergence_tile_out,
            .row = divergence_and_gradient_row, .row_out = divergence_row_out,
            .block = divergence_blocks, .merge = merge_divergence, .block_out = divergence_blocks_out,
            .finish = divergence_finish, .flags = SF_READS_TARGETS,
        },
        [SF_MEASURES] = {
            .tile = measures_tile, .row = measures_row,
            .block = divergence_blocks, .merge = merge_divergence,
            .again = measures_blocks, .merge_again = merge_measures,
            .finish = measures_finish, .flags = SF_READS_TARGETS,
        },
        [SF_BINARY_CROSS_ENTROPY] = {
            .entries = binary_cross_entropy_entries,
        },
        [SF_BINARY_CROSS_ENTROPY_WITH_LOGITS] = {
            .entries = binary_cross_entropy_with_logits_entries,
        },
    },
#ifdef PRODUCT_CLASSES
    .linear = &linear,
#endif
    .exp_array = exp_hook,
    .log1p_array = log1p_hook,
    .sums_of_array = sums_hook,
#if SF_DOUBLE
    .slots_of = slots_of,
    .add_columns = add_columns,
#endif
};
