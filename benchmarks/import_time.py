"""What importing softmax_fast costs over NumPy: ``python benchmarks/import_time.py``.

The best of several fresh interpreters, each of which imports NumPy and then softmax_fast.
"""

import argparse
import os
import subprocess
import sys
import tempfile

CODE = """
from time import perf_counter
start = perf_counter()
import numpy
middle = perf_counter()
import softmax_fast
print(middle - start, perf_counter() - middle)
"""


def seconds() -> list[float]:
    """What NumPy took, and softmax_fast after it."""
    # Installed packages have their byte code beside them.
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        cwd=tempfile.gettempdir(),  # not a source tree
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    return [float(word) for word in done.stdout.split()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20, help="interpreters started")
    turns = [seconds() for _ in range(parser.parse_args().rounds)]
    numpy, ours = (1e3 * min(times) for times in zip(*turns, strict=True))
    print(f"numpy {numpy:.1f} ms, softmax_fast {ours:.1f} ms more")


if __name__ == "__main__":
    main()
