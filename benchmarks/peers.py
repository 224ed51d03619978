"""The contestants: this library and its peers, each behind the same few methods.

To add one: subclass `Peer`, name it and its packages, limit its threads in ``__init__`` the way it
documents, write a method for each operation it has, and list it in `PEERS`. A method is named as
the operation in ``harness.OPERATIONS``; it takes the arrays of ``harness.make_arrays``, does what a
user would do once and ahead, and returns a callable: the work itself, which returns its result, or
None after writing it to ``arrays.out``. Where an operation takes ``out`` and the peer cannot, its
``…_fresh`` stands in. ``exp`` is for ``accuracy.py`` alone. Every contestant runs in a process of
its own (see ``workers.py``).
"""

import contextlib
import importlib.metadata
import io
import json
import math
import os
import tempfile
import warnings
from types import SimpleNamespace

import harness
import numpy as np


class Peer:
    name = ""
    kind = "peer"
    packages: tuple[str, ...] = ()
    only: tuple[str, ...] = ()  # the operations it takes part in, if not in all it has

    def __init__(self, threads: int):
        self.threads = threads

    @staticmethod
    def environment(threads: int) -> dict[str, str]:
        """Variables set before the process starts, so before anything is imported."""
        count = str(threads)
        return dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), count)

    def versions(self) -> dict[str, str]:
        return {package: importlib.metadata.version(package) for package in self.packages}

    @classmethod
    def has(cls, operation: str) -> bool:
        """Whether it may take part; of some arrays `prepare` says no."""
        if cls.only and operation not in cls.only:
            return False
        return any(getattr(cls, name, None) for name in (operation, f"{operation}_fresh"))

    def prepare(self, operation: str, arrays: SimpleNamespace):
        """The callable to time, or None when this peer has no such operation."""
        method = getattr(self, operation, None) or getattr(self, f"{operation}_fresh", None)
        return method and method(arrays)

    def nothing(self):
        """A call's cost without the work, no part of what is measured."""

    def fetch(self, returned, arrays: SimpleNamespace):
        """What a call gave, as something NumPy can read."""
        return arrays.out if returned is None else returned

    def wrong(self, case: harness.Case, arrays: SimpleNamespace, logs, returned) -> str | None:
        """What is wrong with what a call gave, or None."""
        return harness.wrong(case, arrays, logs, self.fetch(returned, arrays))


class SoftmaxFast(Peer):
    name = "softmax_fast"
    kind = "ours"
    packages = ("softmax_fast",)

    def __init__(self, threads):
        import softmax_fast

        self.sf = softmax_fast
        softmax_fast.set_num_threads(threads)

    def versions(self):
        try:
            return super().versions()
        except importlib.metadata.PackageNotFoundError:  # run from a source tree
            return {"softmax_fast": getattr(self.sf, "__version__", "unknown")}

    def softmax(self, a):
        softmax, x, axis, out = self.sf.softmax, a.x, a.axis, a.out
        return lambda: softmax(x, axis, out=out)

    def softmax_fresh(self, a):
        softmax, x, axis = self.sf.softmax, a.x, a.axis
        return lambda: softmax(x, axis)

    def log_softmax(self, a):
        log_softmax, x, axis, out = self.sf.log_softmax, a.x, a.axis, a.out
        return lambda: log_softmax(x, axis, out=out)

    def logsumexp(self, a):
        logsumexp, x, axis = self.sf.logsumexp, a.x, a.axis
        return lambda: logsumexp(x, axis)

    def softmax_loss(self, a):
        softmax_loss, x, y, axis = self.sf.softmax_loss, a.x, a.targets, a.axis
        if axis == -1:
            return lambda: softmax_loss(x, y)
        return lambda: softmax_loss(x, y, axis=axis)

    def softmax_loss_and_grad(self, a):
        loss_and_grad = self.sf.softmax_loss_and_grad
        return lambda: loss_and_grad(a.x, a.targets, axis=a.axis, grad_out=a.out)

    def softmax_loss_and_grad_fresh(self, a):
        return lambda: self.sf.softmax_loss_and_grad(a.x, a.targets, axis=a.axis)

    def binary_cross_entropy_with_logits(self, a):
        return lambda: self.sf.binary_cross_entropy_with_logits(a.x, a.targets)

    def linear_softmax_loss(self, a):
        return lambda: self.sf.linear_softmax_loss(a.features, a.weights, a.targets)

    @staticmethod
    def _numbers(found):
        return {
            "loss": found.loss,
            "accuracy": found.accuracy,
            "top5": found.top_k[5],
            "ece": found.ece,
        }

    def evaluate(self, a):
        return lambda: self._numbers(self.sf.evaluate(a.x, a.targets))

    def evaluate_linear(self, a):
        return lambda: self._numbers(self.sf.evaluate_linear(a.features, a.weights, a.targets))

    def fit_temperature_linear(self, a):
        fit = self.sf.fit_temperature_linear
        return lambda: fit(a.features, a.weights, a.targets).temperature

    def fit_temperature(self, a):
        return lambda: self.sf.fit_temperature(a.x, a.targets).temperature

    def kl_divergence(self, a):
        kl_divergence, base, x = self.sf.kl_divergence, a.targets, a.x
        return lambda: kl_divergence(base, x)

    def kl_divergence_and_grad(self, a):
        value_and_grad = self.sf.kl_divergence_and_grad
        return lambda: value_and_grad(a.targets, a.x, grad_out=a.out)

    def compare(self, a):
        return lambda: self.sf.compare(a.targets, a.x, a.labels).as_dict()


class LossAlone(SoftmaxFast):
    """The loss of what is evaluated: what an evaluation may be compared with."""

    name = "softmax_fast, loss alone"
    kind = "beside"
    only = ("evaluate",)

    def evaluate(self, a):
        softmax_loss, x, y = self.sf.softmax_loss, a.x, a.targets
        return lambda: {"loss": softmax_loss(x, y)}


class CommandLine(SoftmaxFast):
    """``softmax-fast evaluate`` of files in the page cache, but for the start of Python."""

    name = "softmax_fast, command line"
    kind = "beside"
    only = ("evaluate",)

    def __init__(self, threads):
        super().__init__(threads)
        self.threads = threads
        from softmax_fast import cli

        self.cli = cli

    def evaluate(self, a):
        self.folder = tempfile.TemporaryDirectory()
        files = [os.path.join(self.folder.name, name) for name in ("x.npy", "y.npy")]
        for path, array in zip(files, (a.x, a.targets), strict=True):
            np.save(path, array)
        arguments = ["evaluate", *files, "--json", "--n-threads", str(self.threads)]

        def call():
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                assert self.cli.main(arguments) == 0
            found = json.loads(printed.getvalue())
            return {
                "loss": found["loss"],
                "accuracy": found["accuracy"],
                "top5": found["top5_accuracy"],
                "ece": found["ece"],
            }

        return call


class NumPyFormula(Peer):
    """The lines everybody writes, with every temporary reused where NumPy lets them."""

    name = "NumPy"
    packages = ("numpy",)

    def exp(self, a):
        return lambda: np.exp(a.x, out=a.out)

    def softmax(self, a):
        x, out, axis = a.x, a.out, a.axis

        def call():
            np.subtract(x, x.max(axis, keepdims=True), out=out)
            np.exp(out, out=out)
            np.divide(out, out.sum(axis, keepdims=True), out=out)

        return call

    def softmax_fresh(self, a):
        x, axis = a.x, a.axis

        def call():
            e = np.exp(x - x.max(axis, keepdims=True))
            e /= e.sum(axis, keepdims=True)
            return e

        return call

    def log_softmax(self, a):
        x, out, axis = a.x, a.out, a.axis

        def call():
            np.subtract(x, x.max(axis, keepdims=True), out=out)
            np.subtract(out, np.log(np.exp(out).sum(axis, keepdims=True)), out=out)

        return call

    def logsumexp(self, a):
        x, axis = a.x, a.axis

        def call():
            m = x.max(axis, keepdims=True)
            e = x - m
            np.exp(e, out=e)
            return m.squeeze(axis) + np.log(e.sum(axis))

        return call

    @staticmethod
    def _mean_loss(x, labels, axis):
        z = x - x.max(axis, keepdims=True)
        chosen = np.take_along_axis(z, labels, axis).squeeze(axis)
        np.exp(z, out=z)
        return np.mean(np.log(z.sum(axis)) - chosen)

    def softmax_loss(self, a):
        labels = np.expand_dims(a.targets, a.axis)
        return lambda: self._mean_loss(a.x, labels, a.axis)

    def softmax_loss_and_grad(self, a):
        x, out, axis = a.x, a.out, a.axis
        labels = np.expand_dims(a.targets, axis)

        def call():
            np.subtract(x, x.max(axis, keepdims=True), out=out)
            chosen = np.take_along_axis(out, labels, axis)
            np.exp(out, out=out)
            s = out.sum(axis, keepdims=True)
            np.divide(out, s * labels.size, out=out)
            at_label = np.take_along_axis(out, labels, axis) - x.dtype.type(1 / labels.size)
            np.put_along_axis(out, labels, at_label, axis)
            return np.mean(np.log(s) - chosen), out

        return call

    def binary_cross_entropy_with_logits(self, a):
        x, t = a.x, a.targets
        return lambda: np.mean(np.maximum(x, 0) - x * t + np.log1p(np.exp(-np.abs(x))))

    def linear_softmax_loss(self, a):
        labels = a.targets[:, None]
        return lambda: self._mean_loss(np.matmul(a.features, a.weights.T, out=a.out), labels, -1)

    @staticmethod
    def _log_softmax(x):
        z = x - x.max(-1, keepdims=True)
        z -= np.log(np.exp(z).sum(-1, keepdims=True))
        return z

    def kl_divergence(self, a):
        def call():
            log_p, log_q = self._log_softmax(a.targets), self._log_softmax(a.x)
            return np.mean(np.sum(np.exp(log_p) * (log_p - log_q), axis=-1))

        return call

    def kl_divergence_and_grad(self, a):
        out = a.out

        def call():
            log_p, log_q = self._log_softmax(a.targets), self._log_softmax(a.x)
            p = np.exp(log_p)
            np.subtract(np.exp(log_q, out=out), p, out=out)
            np.divide(out, len(out), out=out)
            return np.mean(np.sum(p * (log_p - log_q), axis=-1)), out

        return call


class SciPy(Peer):
    name = "SciPy"
    packages = ("scipy",)

    def __init__(self, threads):
        import scipy.special

        self.special = scipy.special

    def softmax_fresh(self, a):
        return lambda: self.special.softmax(a.x, axis=a.axis)

    def log_softmax(self, a):
        return lambda: self.special.log_softmax(a.x, axis=a.axis)

    def logsumexp(self, a):
        return lambda: self.special.logsumexp(a.x, axis=a.axis)

    def kl_divergence(self, a):
        softmax, rel_entr = self.special.softmax, self.special.rel_entr
        base, x = a.targets, a.x
        return lambda: rel_entr(softmax(base, axis=-1), softmax(x, axis=-1)).sum(axis=-1).mean()


class PyTorch(Peer):
    name = "PyTorch"
    packages = ("torch",)

    def __init__(self, threads):
        import torch

        torch.set_num_threads(threads)
        torch.set_num_interop_threads(1)
        self.torch, self.functional = torch, torch.nn.functional
        # Outside autograd, except where a gradient is asked for. (A call leaves it on.)
        torch.set_grad_enabled(False)

    def _classes_second(self, a):
        """cross_entropy wants the classes in dimension 1; a view."""
        return self.torch.from_numpy(a.x).movedim(a.axis, 1), self.torch.from_numpy(a.targets)

    def exp(self, a):
        x, out = self.torch.from_numpy(a.x), self.torch.from_numpy(a.out)
        return lambda: self.torch.exp(x, out=out)

    def softmax(self, a):
        softmax, axis = self.torch.softmax, a.axis
        x, out = self.torch.from_numpy(a.x), self.torch.from_numpy(a.out)
        return lambda: softmax(x, axis, out=out)

    def softmax_fresh(self, a):
        softmax, x, axis = self.torch.softmax, self.torch.from_numpy(a.x), a.axis
        return lambda: softmax(x, axis)

    def log_softmax(self, a):
        log_softmax, axis = self.torch.log_softmax, a.axis
        x, out = self.torch.from_numpy(a.x), self.torch.from_numpy(a.out)
        return lambda: log_softmax(x, axis, out=out)

    def logsumexp(self, a):
        logsumexp, x, axis = self.torch.logsumexp, self.torch.from_numpy(a.x), a.axis
        return lambda: logsumexp(x, axis)

    def softmax_loss(self, a):
        cross_entropy = self.functional.cross_entropy
        x, y = self._classes_second(a)
        return lambda: cross_entropy(x, y)

    def softmax_loss_and_grad_fresh(self, a):
        torch, cross_entropy = self.torch, self.functional.cross_entropy
        leaf = torch.from_numpy(a.x).requires_grad_()
        y = torch.from_numpy(a.targets)

        def call():
            with torch.enable_grad():
                loss = cross_entropy(leaf.movedim(a.axis, 1), y)
                (grad,) = torch.autograd.grad(loss, leaf)
            return loss.detach(), grad

        return call

    def binary_cross_entropy_with_logits(self, a):
        x, t = self.torch.from_numpy(a.x), self.torch.from_numpy(a.targets)
        return lambda: self.functional.binary_cross_entropy_with_logits(x, t)

    def linear_softmax_loss(self, a):
        cross_entropy, linear = self.functional.cross_entropy, self.functional.linear
        features, weights, y = map(self.torch.from_numpy, (a.features, a.weights, a.targets))
        return lambda: cross_entropy(linear(features, weights), y)

    def _divergence(self, x, base):
        log_softmax = self.torch.log_softmax
        return self.functional.kl_div(
            log_softmax(x, -1), log_softmax(base, -1), reduction="batchmean", log_target=True
        )

    def kl_divergence(self, a):
        x, base = self.torch.from_numpy(a.x), self.torch.from_numpy(a.targets)
        return lambda: self._divergence(x, base)

    def compare(self, a):
        torch = self.torch
        x, base, y = map(torch.from_numpy, (a.x, a.targets, a.labels))
        y = y[:, None]
        quantiles = torch.tensor((0, 0.01, 0.05, 0.1, 0.5, 0.9, 0.95, 0.99, 1.0))

        def call():
            log_q, log_p = torch.log_softmax(x, -1), torch.log_softmax(base, -1)
            q, p = log_q.exp(), log_p.exp()
            t = log_q - log_p
            log_m = torch.logaddexp(log_q, log_p) - math.log(2)
            kl = -(p * t).sum(-1)
            losses = [-log.gather(-1, y).double() for log in (log_p, log_q)]
            dp = (q - p).gather(-1, y)
            found = {
                "kl": kl.double().mean(),
                "kl_reverse": (q * t).sum(-1).double().mean(),
                "js": ((p * (log_p - log_m)).sum(-1) + (q * (log_q - log_m)).sum(-1)).mean() / 2,
                "total_variation": (q - p).abs().sum(-1).double().mean() / 2,
                "same_top": (x.argmax(-1) == base.argmax(-1)).double().mean(),
                "loss_difference": (losses[1] - losses[0]).mean(),
                "dp": dp.double().mean(),
            }
            for values in (kl, dp[:, 0]):
                values.sort().values[(quantiles * (len(values) - 1)).long()]
            return {name: float(value) for name, value in found.items()}

        return call

    def kl_divergence_and_grad_fresh(self, a):
        torch = self.torch
        leaf, base = torch.from_numpy(a.x).requires_grad_(), torch.from_numpy(a.targets)

        def call():
            with torch.enable_grad():
                value = self._divergence(leaf, base)
                (grad,) = torch.autograd.grad(value, leaf)
            return value.detach(), grad

        return call


class TorchMetrics(PyTorch):
    """The metrics of an evaluation one after the other, as there is no function for all."""

    name = "PyTorch, torchmetrics"
    packages = ("torch", "torchmetrics")
    only = ("evaluate", "fit_temperature")

    def __init__(self, threads):
        super().__init__(threads)
        from torchmetrics.functional import classification

        self.metrics = classification

    def evaluate(self, a):
        if a.x.dtype == np.float16:  # its sums would be float16
            return None
        x, y = self.torch.from_numpy(a.x), self.torch.from_numpy(a.targets)
        options = {"num_classes": x.shape[1], "validate_args": False}

        def accuracy(k):
            return self.metrics.multiclass_accuracy(x, y, average="micro", top_k=k, **options)

        def call():
            return {
                "loss": self.functional.cross_entropy(x, y),
                "accuracy": accuracy(1),
                "top5": accuracy(5),
                "ece": self.metrics.multiclass_calibration_error(
                    x, y, n_bins=harness.N_BINS, norm="l1", **options
                ),
            }

        return call

    def fit_temperature(self, a):
        """LBFGS on the mean loss, with a line search: without one it stops far from the optimum."""
        torch = self.torch
        x, y = torch.from_numpy(a.x), torch.from_numpy(a.targets)

        def call():
            with torch.enable_grad():
                t = torch.ones(1, requires_grad=True)
                optimizer = torch.optim.LBFGS([t], max_iter=50, line_search_fn="strong_wolfe")

                def closure():
                    optimizer.zero_grad()
                    loss = self.functional.cross_entropy(x / t, y)
                    loss.backward()
                    return loss

                optimizer.step(closure)
            return float(t)

        return call


class JAX(Peer):
    name = "JAX"
    packages = ("jax", "jaxlib")

    def __init__(self, threads):
        # Its thread pools follow the CPUs the process may use; no other control is documented.
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
        import jax

        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_enable_x64", True)
        self.jax = jax

    def _call(self, function, *arrays):
        jitted = self.jax.jit(function)
        given = [self.jax.device_put(array) for array in arrays]

        def call():
            return self.jax.block_until_ready(jitted(*given))

        return call

    def _mean_loss(self, axis):
        def loss(x, y):
            log_p = self.jax.nn.log_softmax(x, axis)
            labels = self.jax.numpy.expand_dims(y, axis)
            return -self.jax.numpy.take_along_axis(log_p, labels, axis).mean()

        return loss

    def exp(self, a):
        return self._call(self.jax.numpy.exp, a.x)

    def softmax_fresh(self, a):
        return self._call(lambda x: self.jax.nn.softmax(x, a.axis), a.x)

    def log_softmax(self, a):
        return self._call(lambda x: self.jax.nn.log_softmax(x, a.axis), a.x)

    def logsumexp(self, a):
        return self._call(lambda x: self.jax.nn.logsumexp(x, a.axis), a.x)

    def softmax_loss(self, a):
        return self._call(self._mean_loss(a.axis), a.x, a.targets)

    def softmax_loss_and_grad_fresh(self, a):
        return self._call(self.jax.value_and_grad(self._mean_loss(a.axis)), a.x, a.targets)

    def linear_softmax_loss(self, a):
        loss = self._mean_loss(-1)
        return self._call(lambda f, w, y: loss(f @ w.T, y), a.features, a.weights, a.targets)

    def _mean_divergence(self, x, base):
        log_q, log_p = self.jax.nn.log_softmax(x), self.jax.nn.log_softmax(base)
        return (self.jax.numpy.exp(log_p) * (log_p - log_q)).sum(-1).mean()

    def kl_divergence(self, a):
        return self._call(self._mean_divergence, a.x, a.targets)

    def kl_divergence_and_grad_fresh(self, a):
        return self._call(self.jax.value_and_grad(self._mean_divergence), a.x, a.targets)


class Optax(JAX):
    name = "optax"
    packages = ("optax",)

    def __init__(self, threads):
        super().__init__(threads)
        import optax

        self.optax = optax

    exp = softmax_fresh = log_softmax = logsumexp = linear_softmax_loss = None

    def _mean_loss(self, axis):
        losses = self.optax.softmax_cross_entropy_with_integer_labels
        return lambda x, y: losses(x, y, axis=axis).mean()

    def _mean_divergence(self, x, base):
        log_q, log_p = self.jax.nn.log_softmax(x), self.jax.nn.log_softmax(base)
        return self.optax.losses.kl_divergence_with_log_targets(log_q, log_p).mean()

    def binary_cross_entropy_with_logits(self, a):
        losses = self.optax.sigmoid_binary_cross_entropy
        return self._call(lambda x, t: losses(x, t).mean(), a.x, a.targets)


class ONNXRuntime(Peer):
    """One-node models, inputs bound in place, outputs bound to ``out`` or left to the runtime."""

    name = "ONNX Runtime"
    packages = ("onnxruntime",)

    def __init__(self, threads):
        import onnx
        import onnxruntime

        self.onnx, self.runtime = onnx, onnxruntime
        self.options = onnxruntime.SessionOptions()
        self.options.intra_op_num_threads = threads
        self.options.inter_op_num_threads = 1
        self.options.log_severity_level = 3
        self.binding = None

    def _call(self, op, inputs, rank, out=None, **attributes):
        helper = self.onnx.helper

        def describe(name, dtype, rank):
            element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
            return helper.make_tensor_value_info(name, element, [f"{name}{k}" for k in range(rank)])

        node = helper.make_node(op, list(inputs), ["result"], **attributes)
        graph = helper.make_graph(
            [node],
            op,
            [describe(name, array.dtype, array.ndim) for name, array in inputs.items()],
            [describe("result", inputs["x"].dtype, rank)],
        )
        opset = helper.make_opsetid("", 17)  # the last with the axes of a reduction as an attribute
        model = helper.make_model(graph, opset_imports=[opset], ir_version=8)
        session = self.runtime.InferenceSession(
            model.SerializeToString(), self.options, providers=["CPUExecutionProvider"]
        )
        binding = self.binding = session.io_binding()
        for name, array in inputs.items():
            binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        if out is None:
            binding.bind_output("result", "cpu")
        else:
            binding.bind_output("result", "cpu", 0, out.dtype.type, out.shape, out.ctypes.data)
        return lambda: session.run_with_iobinding(binding)

    def fetch(self, returned, arrays):
        return self.binding.copy_outputs_to_cpu()[0]

    def exp(self, a):
        return self._call("Exp", {"x": a.x}, a.x.ndim, a.out)

    def softmax(self, a):
        return self._call("Softmax", {"x": a.x}, a.x.ndim, a.out, axis=a.axis)

    def softmax_fresh(self, a):
        return self._call("Softmax", {"x": a.x}, a.x.ndim, axis=a.axis)

    def log_softmax(self, a):
        return self._call("LogSoftmax", {"x": a.x}, a.x.ndim, a.out, axis=a.axis)

    def logsumexp(self, a):
        return self._call("ReduceLogSumExp", {"x": a.x}, a.x.ndim - 1, axes=[a.axis], keepdims=0)

    def softmax_loss(self, a):
        if a.axis % a.x.ndim != 1:
            return None
        inputs = {"x": a.x, "targets": a.targets}
        return self._call("SoftmaxCrossEntropyLoss", inputs, 0, reduction="mean")


class TensorFlow(Peer):
    name = "TensorFlow"
    packages = ("tensorflow", "tensorflow-cpu")

    def __init__(self, threads):
        import tensorflow

        tensorflow.config.threading.set_intra_op_parallelism_threads(threads)
        tensorflow.config.threading.set_inter_op_parallelism_threads(1)
        self.tf = tensorflow

    @staticmethod
    def environment(threads):
        return Peer.environment(threads) | {"TF_CPP_MIN_LOG_LEVEL": "3"}

    def versions(self):
        return {"tensorflow": self.tf.__version__}

    def _mean_loss(self, x, y):
        losses = self.tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=x)
        return self.tf.reduce_mean(losses)

    def exp(self, a):
        x = self.tf.constant(a.x)
        return lambda: self.tf.exp(x)

    def softmax_fresh(self, a):
        x = self.tf.constant(a.x)
        return lambda: self.tf.nn.softmax(x, a.axis)

    def log_softmax(self, a):
        x = self.tf.constant(a.x)
        return lambda: self.tf.nn.log_softmax(x, a.axis)

    def logsumexp(self, a):
        x = self.tf.constant(a.x)
        return lambda: self.tf.reduce_logsumexp(x, a.axis)

    def softmax_loss(self, a):
        if a.axis != -1:
            return None
        x, y = self.tf.constant(a.x), self.tf.constant(a.targets)
        return lambda: self._mean_loss(x, y)

    def softmax_loss_and_grad_fresh(self, a):
        if a.axis != -1:
            return None
        x, y = self.tf.constant(a.x), self.tf.constant(a.targets)

        def call():
            with self.tf.GradientTape() as tape:
                tape.watch(x)
                loss = self._mean_loss(x, y)
            return loss, tape.gradient(loss, x)

        return call

    def binary_cross_entropy_with_logits(self, a):
        x, t = self.tf.constant(a.x), self.tf.constant(a.targets)
        losses = self.tf.nn.sigmoid_cross_entropy_with_logits
        return lambda: self.tf.reduce_mean(losses(labels=t, logits=x))

    def linear_softmax_loss(self, a):
        features, weights, y = map(self.tf.constant, (a.features, a.weights, a.targets))
        return lambda: self._mean_loss(self.tf.matmul(features, weights, transpose_b=True), y)


class ScikitLearn(Peer):
    """The losses under its linear and boosting models: Cython and OpenMP, as here.

    The gradient is of the sum, a division by N less than the others do; `fetch` does it untimed.
    """

    name = "scikit-learn"
    packages = ("scikit-learn",)

    def __init__(self, threads):
        super().__init__(threads)
        from sklearn._loss import loss

        self.loss = loss

    def fetch(self, returned, arrays):
        if isinstance(returned, tuple):
            loss, gradient = returned
            return loss, gradient / len(gradient)
        return returned

    def softmax_loss(self, a):
        if a.x.ndim != 2 or a.axis != -1:
            return None
        half = self.loss.HalfMultinomialLoss(n_classes=a.x.shape[1])
        y, losses = a.targets.astype(a.x.dtype), np.empty(len(a.x), a.x.dtype)
        return lambda: half.loss(y, a.x, None, losses, self.threads).mean()

    def softmax_loss_and_grad(self, a):
        if a.x.ndim != 2 or a.axis != -1:
            return None
        half = self.loss.HalfMultinomialLoss(n_classes=a.x.shape[1])
        y, losses = a.targets.astype(a.x.dtype), np.empty(len(a.x), a.x.dtype)

        def call():
            half.loss_gradient(y, a.x, None, losses, a.out, self.threads)
            return losses.mean(), a.out

        return call

    def binary_cross_entropy_with_logits(self, a):
        half = self.loss.HalfBinomialLoss()
        losses = np.empty_like(a.x)
        return lambda: half.loss(a.targets, a.x, None, losses, self.threads).mean()

    def evaluate(self, a):
        """The metrics it has: no calibration error, but the Brier score.

        Its loss is another one: of probabilities that are at least one ε.
        """
        # Several arrays of one-hot labels in float64.
        if a.x.dtype == np.float16 or a.x.size > 10**8:
            return None
        from sklearn import metrics
        from sklearn.utils.extmath import softmax

        classes = np.arange(a.x.shape[1])

        def call():
            p = softmax(a.x)
            return {
                "loss of clipped probabilities": metrics.log_loss(a.targets, p, labels=classes),
                "accuracy": metrics.top_k_accuracy_score(a.targets, p, k=1, labels=classes),
                "top5": metrics.top_k_accuracy_score(a.targets, p, k=5, labels=classes),
                "brier": metrics.brier_score_loss(a.targets, p, labels=classes),
            }

        return call

    def fit_temperature(self, a):
        """What ``CalibratedClassifierCV(method="temperature")`` does with the logits of a model."""
        from sklearn.calibration import _TemperatureScaling

        def call():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return 1 / _TemperatureScaling().fit(a.x, a.targets).beta_

        return call


PEERS = (
    NumPyFormula,
    SciPy,
    PyTorch,
    TorchMetrics,
    JAX,
    ONNXRuntime,
    TensorFlow,
    ScikitLearn,
    Optax,
)
