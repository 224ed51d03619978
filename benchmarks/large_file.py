"""Evaluate and calibrate a file larger than the memory that the process may have.

    python benchmarks/large_file.py
    python benchmarks/large_file.py --gib 8 --allowed 2 --folder /var/tmp

Writes a file of logits, gives it to ``softmax-fast evaluate`` and ``calibrate`` in processes whose
address space is limited, mapped files included, and compares what they print with what the library
gives for the same rows without a limit. The file is removed at the end. For Linux.
"""

import argparse
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import compare
import harness
import numpy as np

import softmax_fast as sf

CLASSES = 1024
BLOCK = 1 << 14  # rows: 64 MiB


def blocks(count: int):
    """Logits and labels of 64 MiB each, no two alike."""
    rng = np.random.default_rng(8)
    base = harness.normal_logits((BLOCK, CLASSES), "float32")
    noise = rng.gumbel(size=base.shape).astype(np.float32)
    labels = (base / np.float32(harness.DRAWN_AT) + noise).argmax(axis=1)
    for k in range(count):
        order = rng.permutation(BLOCK)
        yield base[order] * np.float32(0.8 + 0.4 * k / count), labels[order]


def run_limited(command: list[str], allowed: int) -> tuple[dict, float, float]:
    """Its JSON, seconds, and the most anonymous memory in MB that it was seen with."""
    program = f"import resource; resource.setrlimit(resource.RLIMIT_AS, ({allowed},) * 2)\n"
    program += "import sys; from softmax_fast.cli import main; sys.exit(main(sys.argv[1:]))"
    with tempfile.TemporaryFile() as printed:
        start = time.perf_counter()
        process = subprocess.Popen([sys.executable, "-c", program, *command], stdout=printed)
        most = 0
        while process.poll() is None:
            with contextlib.suppress(OSError):
                status = Path(f"/proc/{process.pid}/status").read_text()
                found = re.search(r"RssAnon:\s*(\d+)", status)
                most = max(most, int(found[1]) if found else 0)
            time.sleep(0.005)
        seconds = time.perf_counter() - start
        if process.returncode:
            raise SystemExit(f"{command[0]} failed with exit code {process.returncode}")
        printed.seek(0)
        return json.load(printed), seconds, most * 1024 / 1e6


def differences(printed: dict, expected: dict) -> float:
    """The largest relative difference of the numbers in both."""
    worst = 0.0
    for name, value in expected.items():
        if isinstance(value, float) and printed.get(name) is not None:
            worst = max(worst, abs(printed[name] - value) / max(abs(value), 1e-300))
    return worst


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--gib", type=float, default=8, help="size of the file")
    parser.add_argument("--allowed", type=float, default=2, help="GiB of address space")
    parser.add_argument("--folder", help="where to write (default: the system's for such files)")
    parser.add_argument(
        "--update-results", action="store_true", help="put the figures into RESULTS.md"
    )
    options = parser.parse_args(argv)
    lines = []

    def say(line):
        lines.append(line)
        print(line, flush=True)

    count = round(options.gib * 2**30 / (BLOCK * CLASSES * 4))
    allowed = round(options.allowed * 2**30)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        files = [os.path.join(folder, name) for name in ("logits.npy", "labels.npy")]
        shape = (count * BLOCK, CLASSES)
        labels, evaluator = [], sf.Evaluator()
        with open(files[0], "wb") as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for x, y in blocks(count):
                file.write(x)
                labels.append(y)
                evaluator.update(x, y)
        labels = np.concatenate(labels)
        np.save(files[1], labels)
        expected = evaluator.result().as_dict()
        gib = os.path.getsize(files[0]) / 2**30
        say(
            f"A file of {gib:.2f} GiB, {shape[0]} × {shape[1]} float32, in processes of at most"
            f" {options.allowed:g} GiB of addresses:"
        )

        printed, seconds, anonymous = run_limited(["evaluate", *files, "--json"], allowed)
        off = differences(printed, expected)
        speed = shape[0] * shape[1] / seconds / 1e9
        say(
            f"* evaluate: {seconds:.1f} s, {speed:.2f} G elements/s, {anonymous:.0f} MB anonymous,"
            f" at most {off:.1e} relative from pieces in memory"
        )
        failed = off > 1e-12 or anonymous > 100

        printed, seconds, anonymous = run_limited(["calibrate", *files, "--json"], allowed)
        fit = sf.fit_temperature(np.load(files[0], mmap_mode="r"), labels)
        off = abs(printed["temperature"] / fit.temperature - 1)
        say(
            f"* calibrate: {seconds:.1f} s, {printed['passes']} passes and one to judge,"
            f" {anonymous:.0f} MB anonymous, T = {printed['temperature']:.6f}, {off:.1e} relative"
            " from fit_temperature of the whole array"
        )
        failed |= off > 1e-6 or anonymous > 100
    if options.update_results:
        lines[0] += "\n"
        harness.replace_between(compare.RESULTS, "large file", "\n".join(lines))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
