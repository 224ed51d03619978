"""One process for each contestant, driven in turn.

A contestant's thread pool may spin for a while after a call, and two OpenMP runtimes in one
process get in each other's way. So each has a process of its own, all children of one parent, and
those whose turn it is not are stopped (SIGSTOP) where the system can.
"""

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
from dataclasses import dataclass

import harness
import situations
from harness import Case
from limits import LIMITS, NumPyExp
from peers import PEERS, CommandLine, LossAlone, SoftmaxFast

OURS = (SoftmaxFast, LossAlone, CommandLine)
ADAPTERS = {adapter.__name__: adapter for adapter in (*OURS, *PEERS, *LIMITS, NumPyExp)}


@dataclass(frozen=True)
class Contestant:
    """An adapter, by the name of its class, and what it runs under; a variant if it has a label."""

    adapter: str
    threads: int
    isa: str | None = None
    label: str = ""
    variables: tuple[tuple[str, str], ...] = ()  # of its environment

    @property
    def name(self) -> str:
        return self.label or ADAPTERS[self.adapter].name

    @property
    def kind(self) -> str:
        return "variant" if self.label else ADAPTERS[self.adapter].kind

    def has(self, operation: str) -> bool:
        return ADAPTERS[self.adapter].has(operation)


def _end_with_parent() -> None:
    """A stopped child would outlive a parent that was killed; Linux can kill it too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its children in good order
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, int(signal.SIGKILL))


def _serve(connection, contestant: Contestant) -> None:
    """The child: answer requests until told to stop."""
    _end_with_parent()
    try:
        adapter = ADAPTERS[contestant.adapter](contestant.threads)
        connection.send(("ready", adapter.versions()))
    except Exception as error:  # noqa: BLE001 - a broken package is as good as a missing one
        connection.send(("missing", f"{type(error).__name__}: {error}"))
        return
    overhead = harness.cost_of(adapter.nothing)
    inputs = arrays = call = number = None
    while (request := connection.recv()) is not None:
        try:
            if request[0] == "prepare":
                _, case, logs = request
                call = number = None
                if case.inputs != inputs:
                    arrays = None  # let go before the next are made
                    inputs, arrays = case.inputs, harness.make_arrays(case)
                call = adapter.prepare(case.operation, arrays)
                error = call and adapter.wrong(case, arrays, logs, call())
                calls = [call]
                connection.send(
                    ("absent", None) if not call else ("wrong", error) if error else ("ok", None)
                )
            elif request[0] == "loop":
                _, case, situation, seconds = request
                for _ in range(len(calls), situations.SITUATIONS[situation].callers):
                    calls.append(adapter.prepare(case.operation, harness.make_arrays(case)))
                    calls[-1]()
                connection.send(("times", situations.loop(calls, situation, seconds)))
            else:
                number = number or harness.calibrate(call)
                samples = harness.take_turn(call, number, request[1], overhead)
                number = harness.recalibrate(samples)
                connection.send(("samples", samples))
        except Exception as error:  # noqa: BLE001 - the parent reports it and goes on
            connection.send(("failed", f"{type(error).__name__}: {error}"))


@contextlib.contextmanager
def _environment(variables: dict[str, str]):
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class Worker:
    """A contestant's process, seen from the parent."""

    def __init__(self, contestant: Contestant):
        self.contestant = contestant
        context = multiprocessing.get_context("spawn")
        self.connection, child = context.Pipe()
        variables = ADAPTERS[contestant.adapter].environment(contestant.threads)
        if contestant.isa:
            variables["SOFTMAX_FAST_ISA"] = contestant.isa
        variables.update(contestant.variables)
        with _environment(variables):
            self.process = context.Process(target=_serve, args=(child, contestant), daemon=True)
            self.process.start()
        child.close()

    def answer(self) -> tuple:
        try:
            return self.connection.recv()
        except EOFError:
            self.process.join(5)
            return "failed", f"its process died (exit code {self.process.exitcode})"

    def ask(self, *request) -> tuple:
        """Let it run, wait for its answer, stop it again."""
        self._signal("SIGCONT")
        with contextlib.suppress(BrokenPipeError):  # answer() says that it died
            self.connection.send(request)
        content = self.answer()
        self.rest()
        return content

    def rest(self) -> None:
        self._signal("SIGSTOP")

    def _signal(self, name: str) -> None:
        if hasattr(signal, name) and self.process.is_alive():
            os.kill(self.process.pid, getattr(signal, name))

    def close(self) -> None:
        self._signal("SIGCONT")
        with contextlib.suppress(BrokenPipeError):
            self.connection.send(None)
        self.connection.close()
        self.process.join(5)
        if self.process.is_alive():
            self.process.terminate()
            self.process.join()


class Contest:
    """All workers of a run; a context manager."""

    def __init__(self, contestants: list[Contestant], say=print):
        self.say = say
        started = [Worker(contestant) for contestant in contestants]
        self.workers: list[Worker] = []
        self.versions: dict[str, dict] = {}
        for worker in started:
            answer, content = worker.answer()
            if answer == "ready":
                self.workers.append(worker)
                self.versions[worker.contestant.name] = content
            else:
                say(f"{worker.contestant.name}: skipped ({content})")
                worker.close()
        for worker in self.workers:
            worker.rest()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for worker in self.workers:
            worker.close()

    def prepared(self, case: Case, logs, report) -> list[Worker]:
        """Who has the operation and was right; what went wrong with others goes to ``report``."""
        ready = []
        for worker in self.taking_part(case):
            answer, content = worker.ask("prepare", case, logs)
            if answer == "ok":
                ready.append(worker)
            elif answer != "absent":
                report(worker, case, f"{answer}: {content}")
        return ready

    @staticmethod
    def turns(ready: list[Worker], rounds: int):
        """Each worker once a round; the first in line changes from round to round."""
        for turn in range(rounds):
            for k in range(len(ready)):
                yield ready[(k + turn) % len(ready)]

    def taking_part(self, case: Case) -> list[Worker]:
        """Who has the operation; the others need not make the arrays."""
        return [worker for worker in self.workers if worker.contestant.has(case.operation)]

    def run(self, case: Case, logs, rounds: int, seconds: float) -> dict[str, harness.Measurement]:
        """Check every contestant on a case, then time those that were right, in turns.

        Parameters
        ----------
        logs : ndarray
            What `harness.reference` gave for the case.
        rounds : int
            How often each has its turn; the first in line changes from round to round.
        seconds : float
            How long a turn lasts.
        """
        row: dict[str, harness.Measurement] = {}

        def report(worker: Worker, case: Case, text: str) -> None:
            row[worker.contestant.name] = harness.Measurement(status=text)
            self.report(worker, case, text)

        ready = self.prepared(case, logs, report)
        samples: dict[str, list[float]] = {worker.contestant.name: [] for worker in ready}
        for worker in self.turns(ready, rounds):
            answer, content = worker.ask("turn", seconds)
            if answer == "samples":
                samples[worker.contestant.name] += content
            elif worker in self.workers:
                report(worker, case, content)
        row.update({name: harness.Measurement.of(s) for name, s in samples.items() if s})
        return row

    def report(self, worker: Worker, case: Case, text: str) -> None:
        self.say(f"{worker.contestant.name}, {case}: {text}")
        if not worker.process.is_alive() and worker in self.workers:
            self.workers.remove(worker)


def say(line: str) -> None:
    """Progress."""
    print(line, file=sys.stderr, flush=True)


def end_in_good_order() -> None:
    """What ends this process ends it as an exception, so that no stopped child stays behind."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
