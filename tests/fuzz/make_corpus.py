"""Writes the seeds of fuzz_kernels.c into the folder corpus beside this file.

Each is the header that ``decode`` reads, one byte a choice, and 32 bytes of entries: for every
operation a batch in tiles and a strided, streamed or otherwise special one; and what went wrong once.
"""

import random
from pathlib import Path

OPERATIONS = [  # in the order of kernels.h
    "softmax",
    "log_softmax",
    "logsumexp",
    "loss",
    "gradient",
    "cross_entropy",
    "selected",
    "maximum_and_rest",
    "row_statistics",
    "exponentials",
    "binary",
    "binary_of_logits",
    "divergence",
    "divergence_gradient",
]
KINDS = ["f32", "f64", "f16", "bf16"]

# classes, outer, inner, layout, t_layout, options, more, style, t_style, split, temperature
TILES = (9, 0, 39, 0, 0, 0x08, 0, 0, 16, 7, 0)
OTHERS = [
    (0x03, "f64", (33, 0, 16, 1, 1, 0x07, 0x11, 2, 0, 3, 3)),  # columns
    (0x00, "f32", (208, 3, 2, 0x88, 0, 0x8B, 0x40, 5, 40, 1, 8)),  # two blocks, streamed
    (0x8B, "f64", (130, 7, 9, 0xBA, 2, 0x3C, 0x6F, 3, 63, 2, 5)),  # backwards
    (0x01, "f16", (64, 3, 20, 9, 4, 0x2E, 0x25, 1, 24, 5, 2)),
    (0x00, "f32", (239, 0, 0, 0, 0, 0x58, 0x80, 4, 8, 0, 0)),  # in pieces, in place
]


def seed(operation, kind, out_layout, header, entries):
    head = [out_layout, OPERATIONS.index(operation), KINDS.index(kind), *header]
    return bytes(head) + entries


def seeds():
    for number, operation in enumerate(OPERATIONS):
        entries = random.Random(operation).randbytes(32)
        kind = KINDS[number % 4]
        yield f"{operation}-tiles", seed(operation, kind, 0, TILES, entries)
        out_layout, kind, header = OTHERS[number % len(OTHERS)]
        yield f"{operation}-other", seed(operation, kind, out_layout, header, entries)
    # wrote past the scratch of a row in pieces
    header = (239, 0, 0, 9, 0, 0x0C, 0, 0, 31, 0, 0)
    yield "gradient-ignored-column", seed("gradient", "f32", 0, header, bytes([2]) * 32)


if __name__ == "__main__":
    folder = Path(__file__).parent / "corpus"
    folder.mkdir(exist_ok=True)
    for name, content in seeds():
        (folder / f"{name}.bin").write_bytes(content)
