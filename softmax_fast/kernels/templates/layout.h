/* Contiguous entries from any input, and back to any output.  Rows that are not contiguous are brought
 * into contiguous scratch a block or, transposed, a panel at a time. */

enum { LINE = 64 / REAL_BYTES };

SF_INLINE int is_native(const sf_input *in)
{
    return in->kind == (SF_DOUBLE ? SF_F64 : SF_F32);
}

#define SF_GATHER(TYPE, CONVERT)                                       \
    {                                                                  \
        const TYPE *p = (const TYPE *)in->data + offset;               \
        if (stride == 1)                                               \
            for (ptrdiff_t i = 0; i < n; i++)                          \
                buffer[i] = (real)CONVERT(p[i]);                       \
        else                                                           \
            for (ptrdiff_t i = 0; i < n; i++)                          \
                buffer[i] = (real)CONVERT(p[i * stride]);              \
        return buffer;                                                 \
    }

static SF_NOINLINE const real *gather(const sf_input *in, ptrdiff_t offset, ptrdiff_t n,
                                      real *buffer)
{
    ptrdiff_t stride = in->class_stride;
#if !SF_DOUBLE
    if (in->kind == SF_F16 && stride == 1) {
        vwiden_f16((const uint16_t *)in->data + offset, buffer, n);
        return buffer;
    }
#endif
    switch (in->kind) {
    case SF_F32: SF_GATHER(float, )
    case SF_F64: SF_GATHER(double, )
    case SF_F16: SF_GATHER(uint16_t, sf_float_from_half)
    default: SF_GATHER(uint16_t, sf_float_from_bfloat)
    }
}

#undef SF_GATHER

/* n entries from the element offset on: in place where they lie contiguous, else in buffer. */
SF_INLINE const real *fetch(const sf_input *in, ptrdiff_t offset, ptrdiff_t n, real *buffer)
{
    if (is_native(in) && (in->class_stride == 1 || n == 1))
        return (const real *)in->data + offset;
    return gather(in, offset, n, buffer);
}

SF_INLINE real fetch_one(const sf_input *in, ptrdiff_t offset)
{
    real value;
    return *fetch(in, offset, 1, &value);
}

SF_INLINE real *out_at(const sf_call *call, ptrdiff_t row)
{
    return (real *)call->out.data + sf_output_offset(call, row);
}

static SF_NOINLINE void scatter(real *out, ptrdiff_t stride, const real *values, ptrdiff_t n)
{
    for (ptrdiff_t i = 0; i < n; i++)
        out[i * stride] = values[i];
}

/* Rows longer than a panel may be go one by one: so does every row that needs no panel. */
SF_INLINE ptrdiff_t rows_of_a_panel(const sf_call *call)
{
    ptrdiff_t n = call->n_classes;
    if (!sf_is_scattered(call) || n <= SF_SHORT_ROW || n > SF_PANEL_BYTES / REAL_BYTES)
        return 0;
    return SF_MIN(sf_panel_rows(n, REAL_BYTES), SF_PANEL_BYTES / REAL_BYTES / n);
}

/* Copies rows [first, first + count) into panel, one after another. */
static SF_NOINLINE void load_panel(const sf_call *call, ptrdiff_t first, ptrdiff_t count, real *panel)
{
    const sf_input *in = &call->x;
    ptrdiff_t n = call->n_classes, offset = sf_input_offset(call, in, first), c = 0;
    if (is_native(in) && in->row_stride == 1) {
        /* Column by column: what is a row here is contiguous there. */
        const real *x = (const real *)in->data + offset;
        ptrdiff_t whole = count / COLUMNS * COLUMNS;
        for (; c + LANES <= n; c += LANES)
            for (ptrdiff_t i = 0; i < whole; i += COLUMNS) {
                vec column[COLUMNS];
                vload_transposed(x + c * in->class_stride + i, in->class_stride, column);
                for (int j = 0; j < COLUMNS; j++)
                    vstore(panel + (i + j) * n + c, column[j]);
            }
        for (ptrdiff_t k = 0; k < n; k++)
            for (ptrdiff_t j = k < c ? whole : 0; j < count; j++)
                panel[j * n + k] = x[k * in->class_stride + j];
        return;
    }
    for (ptrdiff_t i = 0; i < count; i++) {
        real *row = panel + i * n;
        const real *x = fetch(in, offset + i * in->row_stride, n, row);
        if (x != row)
            memcpy(row, x, (size_t)(n * REAL_BYTES));
    }
}

/* Columns [i, end) of LANES entries of a panel. */
SF_INLINE void transpose_columns(const real *panel, ptrdiff_t n, ptrdiff_t i, ptrdiff_t end, real *out,
                             ptrdiff_t stride)
{
    for (; i < end; i += COLUMNS) {
        vec column[COLUMNS];
        for (int j = 0; j < COLUMNS; j++)
            column[j] = vload(panel + (i + j) * n);
        vstore_transposed(out + i, stride, column);
    }
}

/* The same of whole cache lines, which go past the caches. */
SF_INLINE void stream_lines(const real *panel, ptrdiff_t n, ptrdiff_t count, real *out, ptrdiff_t stride)
{
    SF_ALIGNED(64) real lines[LANES * SF_PANEL_LINES * LINE];
    if (count <= 0)
        return;
    transpose_columns(panel, n, 0, count, lines, count);
    for (int j = 0; j < LANES; j++)
        for (ptrdiff_t i = 0; i < count; i += LANES)
            vstream(out + j * stride + i, vload(lines + j * count + i));
}

/* The first of some neighbouring entries of the output that begin a cache line in every class; where such
 * lines are not to be streamed, beyond all. */
SF_INLINE ptrdiff_t lines_begin(const sf_call *call, const real *out)
{
    const uintptr_t before = -(uintptr_t)out % 64, item = REAL_BYTES;
    const int aligned = call->out.class_stride * REAL_BYTES % 64 == 0 && before % (item * COLUMNS) == 0;
    return call->stream && aligned ? (ptrdiff_t)(before / item) : PTRDIFF_MAX;
}

static SF_NOINLINE void store_panel(const sf_call *call, ptrdiff_t first, ptrdiff_t count,
                                    const real *panel)
{
    const sf_output *out = &call->out;
    ptrdiff_t n = call->n_classes, c = 0;
    real *o = out_at(call, first);
    if (out->row_stride == 1) {
        ptrdiff_t whole = count / COLUMNS * COLUMNS;
        const ptrdiff_t head = SF_MIN(lines_begin(call, o), whole), past = head + (whole - head) / LINE * LINE;
        for (; c + LANES <= n; c += LANES) {
            transpose_columns(panel + c, n, 0, head, o + c * out->class_stride, out->class_stride);
            stream_lines(panel + c + head * n, n, past - head, o + c * out->class_stride + head, out->class_stride);
            transpose_columns(panel + c, n, past, whole, o + c * out->class_stride, out->class_stride);
        }
        for (ptrdiff_t k = 0; k < n; k++)
            for (ptrdiff_t j = k < c ? whole : 0; j < count; j++)
                o[k * out->class_stride + j] = panel[j * n + k];
        return;
    }
    for (ptrdiff_t i = 0; i < count; i++)
        scatter(o + i * out->row_stride, out->class_stride, panel + i * n, n);
}
