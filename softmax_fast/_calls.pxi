# The public functions, from arguments as they were given to results.  Part of _core.pyx.

# ---- results -----------------------------------------------------------------------------------------

cdef cnp.ndarray row_buffer(cnp.ndarray checked, tuple shape, int number):
    """Where one result a row goes, contiguous: the caller's array where it can be."""
    if checked is not None and cnp.PyArray_ISCARRAY(checked):
        return checked
    return empty(shape, number)


cdef object deliver(out, cnp.ndarray checked, cnp.ndarray values):
    """``values`` in the caller's ``out``, as a scalar, or as an array."""
    if out is None:
        return values if cnp.PyArray_NDIM(values) else values[()]
    if values is not checked:
        checked[...] = values
    return out


cdef object deliver_loss(out, cnp.ndarray checked, double value):
    if out is None:
        return PyArray_Scalar(&value, FLOAT64, None)
    checked[...] = value
    return out


cdef cnp.ndarray loss_output(out, int reduction, tuple shape, dtype):
    """Check ``out`` of a loss: of ``shape`` and ``dtype`` for "none", a 0-d float64 otherwise."""
    if reduction == UNREDUCED:
        return arguments.output("out", out, shape, dtype)
    return arguments.output("out", out, (), FLOAT64)


# ---- one result an entry, or a row -------------------------------------------------------------------

cdef object normalised(int operation, x, axis, temperature, out, n_threads):
    cdef Source source = arguments.logits("x", x)
    cdef cnp.ndarray array = source.array, checked
    cdef int dim = arguments.axis(axis, cnp.PyArray_NDIM(array)), most
    cdef Block block
    one_or_each = arguments.number_as_temperature(temperature)
    if one_or_each is None:
        one_or_each = arguments.temperature(
            temperature, arguments.rows_shape(arguments.shape_of(array), dim))
    most = threads_for(n_threads, cnp.PyArray_SIZE(array))
    if out is None:
        out = checked = new_array(
            cnp.PyArray_NDIM(array), cnp.PyArray_DIMS(array), source.result_type())
    else:
        checked = arguments.output("out", out, arguments.shape_of(array), source.result())
        arguments.apart("out", checked, "x", array, array)
        arguments.apart("out", checked, "temperature", one_or_each)
    if cnp.PyArray_SIZE(array):
        block = layout.first_block(source, dim, 1, checked, one_or_each, None, None, None, 1)
        while block is not None:
            run_block(block, operation, None, None, most)
            block = layout.next_block(block)
    return out


def softmax(x, axis, temperature, out, n_threads):
    return normalised(SF_SOFTMAX, x, axis, temperature, out, n_threads)


def log_softmax(x, axis, temperature, out, n_threads):
    return normalised(SF_LOG_SOFTMAX, x, axis, temperature, out, n_threads)


def logsumexp(x, axis, temperature, keepdims, out, n_threads):
    cdef Source source = arguments.logits("x", x)
    cdef cnp.ndarray array = source.array, checked
    cdef tuple shape = arguments.shape_of(array)
    cdef int dim = arguments.axis(axis, cnp.PyArray_NDIM(array)), most
    cdef Block block
    rows = arguments.rows_shape(shape, dim)
    one_or_each = arguments.temperature(temperature, rows)
    most = threads_for(n_threads, cnp.PyArray_SIZE(array))
    if keepdims:
        rows = (*shape[:dim], 1, *shape[dim + 1 :])
    if out is None:
        checked = empty(rows, source.result_type())
    else:
        checked = arguments.output("out", out, rows, source.result())
        arguments.apart("out", checked, "x", array, array)
        arguments.apart("out", checked, "temperature", one_or_each)
    if cnp.PyArray_SIZE(array):
        block = layout.first_block(source, dim, 1, checked, one_or_each, None, None, None, 1)
        while block is not None:
            block.out.class_stride = 1
            run_block(block, SF_LOGSUMEXP, None, None, most)
            block = layout.next_block(block)
    else:
        checked[...] = -INFINITY
    return deliver(out, checked, checked)


def selected_log_probs(logits, indices, temperature, ignore_index, out, n_threads):
    cdef Source x = arguments.logits("logits", logits)
    cdef cnp.ndarray array = x.array, checked = None, values
    cdef tuple shape = arguments.shape_of(array)
    cdef int last = cnp.PyArray_NDIM(array) - 1, most
    cdef Py_ssize_t n_classes = arguments.some_classes("logits", shape, last)
    cdef Labels chosen
    cdef Options options
    cdef Sums sums
    cdef Block block
    ignored = arguments.ignore_index(ignore_index)
    rows = shape[:last]
    chosen = arguments.indices(indices, rows, ignored)
    one_or_each = arguments.temperature(temperature, rows)
    most = threads_for(n_threads, cnp.PyArray_SIZE(array))
    shape = arguments.shape_of(chosen.given)
    if out is not None:
        checked = arguments.output("out", out, shape, x.result())
        arguments.apart("out", checked, "logits", array)
        arguments.apart("out", checked, "indices", chosen.codes)
        arguments.apart("out", checked, "temperature", one_or_each)
    values = row_buffer(checked, shape, x.result_type())
    if cnp.PyArray_SIZE(values):
        options, sums = arguments.options(None, ignored, 0.0), Sums.__new__(Sums)
        block = layout.first_block(
            x, last, 1, None, one_or_each, chosen.codes, None, values, chosen.per_row)
        while block is not None:
            run_block(block, SF_SELECTED_LOG_PROBS, options, sums, most)
            if sums.result.bad_label_row >= 0:
                raise label_error("indices", chosen, sums.result.bad_label_row, n_classes, ignored)
            block = layout.next_block(block)
    return deliver(out, checked, values)


# ---- losses --------------------------------------------------------------------------------------------

@cython.final
@cython.no_gc
@cython.freelist(8)
cdef class LossProblem:
    """Targets and options of a loss over rows, checked, and what its rows have added up to."""

    cdef readonly object targets  # Labels, or a Source of class probabilities
    cdef readonly Py_ssize_t n_classes
    cdef readonly tuple rows
    cdef readonly object temperature
    cdef readonly cnp.ndarray sample_weight
    cdef readonly Options options
    cdef int reduction
    cdef readonly Sums sums
    cdef str targets_name
    cdef double scale  # of the result

    @property
    def has_labels(self):
        return type(self.targets) is Labels

    cdef cnp.ndarray codes(self):
        """The labels, or None."""
        return (<Labels>self.targets).codes if type(self.targets) is Labels else None

    cdef int apart(self, str name, cnp.ndarray out, cnp.ndarray in_place=None) except -1:
        """Check that an output shares no memory with the arrays that are read during the work."""
        codes = self.codes()
        arguments.apart(
            name, out, self.targets_name,
            (<Source>self.targets).array if codes is None else codes, in_place)
        arguments.apart(name, out, "weight", self.options.weight)
        arguments.apart(name, out, "sample_weight", self.sample_weight)
        arguments.apart(name, out, "temperature", self.temperature)
        return 0

    def of_rows(self, rows):
        """The problem of some rows of a matrix of logits, with the same sums."""
        cdef LossProblem part = LossProblem.__new__(LossProblem)
        if self.has_labels:
            part.targets = self.targets._replace(codes=self.targets.codes[rows])
        else:
            part.targets = self.targets._replace(array=self.targets.array[rows])
        part.n_classes, part.rows, part.options = self.n_classes, self.rows, self.options
        part.reduction, part.sums = self.reduction, self.sums
        part.targets_name, part.scale = self.targets_name, self.scale
        part.temperature = of_rows(self.temperature, rows)
        part.sample_weight = of_rows(self.sample_weight, rows)
        return part

    def counts(self):
        """Which rows count, their labels checked already: None for all. No other adds anything."""
        counts = []
        if self.sample_weight is not None:
            counts.append(self.sample_weight > 0)
        if self.has_labels:
            codes, weight = self.targets.codes, self.options.weight
            if self.options.ignore_index is not None:
                counts.append(codes != self.options.ignore_index)
            if weight is not None:
                # An ignored label may be no class at all.
                counts.append(weight.take(codes, mode="clip") > 0)
        result = np.logical_and.reduce(counts) if counts else None
        return None if result is None or result.all() else result

    cpdef double weigh(self) except? -1:
        """Check the labels, and return what "mean" divides by: Σ v·w[y], or Σ v for probabilities."""
        cdef Py_ssize_t n_rows = 1, dim
        cdef Sums sums
        codes = self.codes()
        for dim in range(len(self.rows)):
            n_rows *= <Py_ssize_t>self.rows[dim]
        if self.sample_weight is None and codes is None:
            return <double>n_rows
        sums = Sums.__new__(Sums)
        add_target_weights(codes, n_rows, self.n_classes, self.sample_weight, self.options, sums)
        self.check_labels(sums)
        return sf_sum_value(sums.result.weight)

    cpdef double gradient_scale(self, double weight_sum):
        """The factor of the gradient, which is scaled as the loss is; infinite over nothing."""
        return self.scale * (1.0 / weight_sum if self.reduction == MEAN else 1.0)

    cpdef evaluate(self, int operation, Source x, int axis, int n_threads,
                   cnp.ndarray row_losses=None, cnp.ndarray grad=None, double scale=1.0):
        """Add up the rows of ``x``, block by block, by an operation on rows."""
        cdef Block block
        if not cnp.PyArray_SIZE(x.array):
            return
        codes = self.codes()
        block = layout.first_block(
            x, axis, sf_rows_of_a_sum(self.n_classes), grad, self.temperature,
            self.targets if codes is None else codes, self.sample_weight, row_losses, 1)
        while block is not None:
            block.targets.gradient_scale = scale
            block.targets.loss_scale = self.scale
            run_block(block, operation, self.options, self.sums, n_threads)
            self.check_labels(self.sums)
            if self.sums.result.bad_value_row >= 0:
                raise row_probability_error(
                    "cross_entropy", x, axis, self.sums.result.bad_value_row)
            block = layout.next_block(block)

    cdef int check_labels(self, Sums sums) except -1:
        if sums.result.bad_label_row >= 0:
            raise label_error(
                self.targets_name, self.targets, sums.result.bad_label_row, self.n_classes,
                self.options.ignore_index)
        return 0

    cpdef cnp.ndarray output(self, out, dtype, dict inputs):
        """Check the caller's ``out``; ``inputs`` are arrays beside those of the problem, by name."""
        cdef cnp.ndarray checked
        if out is None:
            return None
        checked = loss_output(out, self.reduction, self.rows, dtype)
        for name, array in inputs.items():
            arguments.apart("out", checked, name, array)
        self.apart("out", checked)
        return checked

    cpdef cnp.ndarray row_losses(self, cnp.ndarray checked, dtype):
        """Where the losses of the rows go, or None."""
        if self.reduction != UNREDUCED:
            return None
        return row_buffer(checked, self.rows, (<cnp.dtype>dtype).type_num)

    cpdef reduced(self, cnp.ndarray row_losses, out, cnp.ndarray checked, weight_sum=None):
        """The loss as the caller asked for it; ``weight_sum`` where not all rows were summed."""
        cdef double value
        if self.reduction == UNREDUCED:
            return deliver(out, checked, row_losses)
        value = sf_sum_value(self.sums.result.loss)
        if self.reduction == MEAN:
            value /= (sf_sum_value(self.sums.result.weight) if weight_sum is None
                      else <double>weight_sum)
        return deliver_loss(out, checked, value)


cdef LossProblem problem_of(targets, tuple shape, int axis, Py_ssize_t n_classes, weight,
                            sample_weight, ignore_index, reduction, label_smoothing, temperature):
    cdef LossProblem problem = LossProblem.__new__(LossProblem)
    cdef double alpha
    cdef cnp.ndarray class_weight
    ignored = arguments.ignore_index(ignore_index)
    rows = arguments.rows_shape(shape, axis)
    problem.n_classes = n_classes
    problem.rows = rows
    problem.targets = arguments.targets(targets, rows, shape, ignored)
    class_weight = arguments.class_weight(weight, n_classes)
    alpha = arguments.label_smoothing(label_smoothing)
    problem.options = arguments.options(class_weight, ignored, alpha)
    problem.sample_weight = arguments.sample_weight(sample_weight, rows)
    problem.temperature = arguments.temperature(temperature, rows)
    problem.reduction = arguments.reduction(reduction)
    problem.sums = Sums.__new__(Sums)
    problem.targets_name = "targets"
    problem.scale = 1.0
    return problem


def loss_problem(targets, shape, axis, n_classes, *, weight, sample_weight, ignore_index, reduction,
                 label_smoothing=0.0, temperature=1.0):
    """Check targets and options of a loss whose logits have ``shape``, classes along ``axis``."""
    return problem_of(targets, shape, axis, n_classes, weight, sample_weight, ignore_index, reduction,
                      label_smoothing, temperature)


cdef object loss_of(int operation, str name, values, targets, axis, temperature, weight, sample_weight,
                    ignore_index, label_smoothing, reduction, out, n_threads):
    cdef Source x = arguments.logits(name, values)
    cdef tuple shape = arguments.shape_of(x.array)
    cdef int dim = arguments.axis(axis, cnp.PyArray_NDIM(x.array)), most
    cdef LossProblem problem = problem_of(
        targets, shape, dim, arguments.some_classes(name, shape, dim), weight, sample_weight,
        ignore_index, reduction, label_smoothing, temperature)
    cdef cnp.ndarray checked, row_losses
    most = threads_for(n_threads, cnp.PyArray_SIZE(x.array))
    dtype = x.result()
    checked = None if out is None else problem.output(out, dtype, {name: x.array})
    row_losses = problem.row_losses(checked, dtype)
    problem.evaluate(operation, x, dim, most, row_losses)
    return problem.reduced(row_losses, out, checked)


def softmax_loss(logits, targets, axis, temperature, weight, sample_weight, ignore_index,
                 label_smoothing, reduction, out, n_threads):
    return loss_of(SF_SOFTMAX_LOSS, "logits", logits, targets, axis, temperature, weight, sample_weight,
                   ignore_index, label_smoothing, reduction, out, n_threads)


def cross_entropy(probs, targets, axis, weight, sample_weight, ignore_index, reduction, out, n_threads):
    return loss_of(SF_CROSS_ENTROPY, "probs", probs, targets, axis, 1.0, weight, sample_weight,
                   ignore_index, 0.0, reduction, out, n_threads)


def softmax_loss_and_grad(logits, targets, axis, temperature, weight, sample_weight, ignore_index,
                          label_smoothing, reduction, out, grad_out, n_threads):
    cdef Source x = arguments.logits("logits", logits)
    cdef tuple shape = arguments.shape_of(x.array)
    cdef int dim = arguments.axis(axis, cnp.PyArray_NDIM(x.array)), most
    cdef LossProblem problem = problem_of(
        targets, shape, dim, arguments.some_classes("logits", shape, dim), weight, sample_weight,
        ignore_index, reduction, label_smoothing, temperature)
    cdef cnp.ndarray checked = None, grad = None, row_losses
    cdef double scale
    most = threads_for(n_threads, cnp.PyArray_SIZE(x.array))
    dtype = x.result()
    if grad_out is not None:
        grad = arguments.output("grad_out", grad_out, shape, dtype)
        arguments.apart("grad_out", grad, "logits", x.array, x.array)
        problem.apart("grad_out", grad, x.array)
    if out is not None:
        checked = problem.output(out, dtype, {"logits": x.array, "grad_out": grad})
    scale = problem.gradient_scale(problem.weigh())
    if grad is None:
        grad_out = grad = empty(shape, x.result_type())
    row_losses = problem.row_losses(checked, dtype)
    problem.evaluate(SF_SOFTMAX_LOSS_GRAD, x, dim, most, row_losses, grad, scale)
    return problem.reduced(row_losses, out, checked), grad_out


# ---- divergences ---------------------------------------------------------------------------------------

cdef LossProblem problem_of_base(Source base, tuple shape, int axis, sample_weight, scale, reduction,
                                 temperature):
    """The base's logits take the place of targets."""
    cdef LossProblem problem = LossProblem.__new__(LossProblem)
    rows = arguments.rows_shape(shape, axis)
    problem.n_classes = arguments.some_classes("logits", shape, axis)
    problem.rows = rows
    problem.targets = base
    problem.targets_name = "base_logits"
    problem.options = NO_OPTIONS
    problem.scale = arguments.scale(scale)
    problem.sample_weight = arguments.sample_weight(sample_weight, rows)
    problem.temperature = arguments.temperature(temperature, rows)
    problem.reduction = arguments.reduction(reduction)
    problem.sums = Sums.__new__(Sums)
    return problem


cdef object divergence(bint with_grad, base_logits, logits, axis, temperature, sample_weight, scale,
                       reduction, out, grad_out, n_threads):
    cdef Source x = arguments.logits("logits", logits)
    cdef tuple shape = arguments.shape_of(x.array)
    cdef Source base = arguments.base_logits(base_logits, shape)
    cdef int dim = arguments.axis(axis, cnp.PyArray_NDIM(x.array)), most
    cdef LossProblem problem = problem_of_base(
        base, shape, dim, sample_weight, scale, reduction, temperature)
    cdef cnp.ndarray checked = None, grad = None, row_losses
    cdef double factor = 1.0
    most = threads_for(n_threads, cnp.PyArray_SIZE(x.array))
    dtype = base.result() if base.result_type() == cnp.NPY_FLOAT64 else x.result()
    if grad_out is not None:
        grad = arguments.output("grad_out", grad_out, shape, dtype)
        arguments.apart("grad_out", grad, "logits", x.array, x.array)
        problem.apart("grad_out", grad, x.array)
    if out is not None:
        checked = problem.output(out, dtype, {"logits": x.array, "grad_out": grad})
    if with_grad:
        factor = problem.gradient_scale(problem.weigh())
        if grad is None:
            grad_out = grad = empty(shape, (<cnp.dtype>dtype).type_num)
    row_losses = problem.row_losses(checked, dtype)
    problem.evaluate(SF_KL_DIVERGENCE_GRAD if with_grad else SF_KL_DIVERGENCE, x, dim, most, row_losses,
                     grad, factor)
    result = problem.reduced(row_losses, out, checked)
    return (result, grad_out) if with_grad else result


def kl_divergence(base_logits, logits, axis, temperature, sample_weight, scale, reduction, out,
                  n_threads):
    return divergence(False, base_logits, logits, axis, temperature, sample_weight, scale, reduction,
                      out, None, n_threads)


def kl_divergence_and_grad(base_logits, logits, axis, temperature, sample_weight, scale, reduction, out,
                           grad_out, n_threads):
    return divergence(True, base_logits, logits, axis, temperature, sample_weight, scale, reduction,
                      out, grad_out, n_threads)


# ---- binary losses -------------------------------------------------------------------------------------

cdef object binary_loss(int operation, str name, values, targets, temperature, sample_weight, pos_weight,
                        reduction, out, n_threads):
    """Every entry is a row of one class."""
    cdef Source x = arguments.logits(name, values), t
    cdef tuple shape = arguments.shape_of(x.array)
    cdef cnp.ndarray v, checked = None, losses = None
    cdef Sums sums
    cdef int most, way
    t = arguments.binary_targets(targets, shape)
    one_or_each = arguments.entry_temperature(temperature, shape)
    v = arguments.entry_weight("sample_weight", sample_weight, shape)
    q = arguments.pos_weight(pos_weight, shape)
    way = arguments.reduction(reduction)
    most = threads_for(n_threads, cnp.PyArray_SIZE(x.array))
    if out is not None:
        checked = loss_output(out, way, shape, x.result())
        in_place = x.array if way == UNREDUCED else None
        arguments.apart("out", checked, name, x.array, in_place)
        arguments.apart("out", checked, "targets", t.array, in_place)
        arguments.apart("out", checked, "temperature", one_or_each, in_place)
        arguments.apart("out", checked, "sample_weight", v, in_place)
        arguments.apart("out", checked, "pos_weight", q, in_place)
    if way == UNREDUCED:
        losses = empty(shape, x.result_type()) if checked is None else checked
    if checked is not None and arguments.may_share_memory(checked, x.array):
        # An error finds the entry it quotes only before they are overwritten.
        add_entries(operation, x, t, one_or_each, v, q, None, most)
    sums = add_entries(operation, x, t, one_or_each, v, q, losses, most)
    if way == UNREDUCED:
        return deliver(out, checked, losses)
    if way == SUM:
        return deliver_loss(out, checked, sf_sum_value(sums.result.loss))
    return deliver_loss(
        out, checked, sf_sum_value(sums.result.loss) / sf_sum_value(sums.result.weight))


cdef Sums add_entries(int operation, Source x, Source t, temperature, v, q, losses, int n_threads):
    cdef Sums sums = Sums.__new__(Sums)
    cdef Block block
    if cnp.PyArray_SIZE(x.array):
        block = layout.first_entries(x, t, sf_rows_of_a_sum(1), temperature, v, q, losses)
        while block is not None:
            run_block(block, operation, NO_OPTIONS, sums, n_threads)
            if sums.result.bad_value_row >= 0 or sums.result.bad_label_row >= 0:
                raise binary_error(x, t, sums.result.bad_value_row, sums.result.bad_label_row)
            block = layout.next_block(block)
    return sums


def binary_cross_entropy(probs, targets, sample_weight, reduction, out, n_threads):
    return binary_loss(SF_BINARY_CROSS_ENTROPY, "probs", probs, targets, 1.0, sample_weight, None,
                       reduction, out, n_threads)


def binary_cross_entropy_with_logits(logits, targets, temperature, sample_weight, pos_weight, reduction,
                                     out, n_threads):
    return binary_loss(SF_BINARY_CROSS_ENTROPY_WITH_LOGITS, "logits", logits, targets, temperature,
                       sample_weight, pos_weight, reduction, out, n_threads)
