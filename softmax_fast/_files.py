"""Arrays in .npy, .npz and .safetensors files: read safely, some rows at a time, and written whole.

The format of .safetensors is that of https://huggingface.co/docs/safetensors: eight bytes that hold
the length of a JSON header, the header, and the tensors one after the other, without holes.
"""

import contextlib
import errno
import glob
import io
import json
import math
import mmap
import os
import re
import secrets
import stat
import sys
import warnings
import zipfile

import numpy as np
from numpy.lib import format as npy

from ._layout import Source, rectangles

LONGEST_HEADER = 10_000
LONGEST_JSON_HEADER = 100_000_000  # that of the safetensors library
MOST_NAMES_LISTED = 20

# NumPy has no bfloat16. Its bits have this dtype here.
BFLOAT16 = np.dtype([("bfloat16", "<u2")])
SAFETENSORS_DTYPES = {
    "F16": np.dtype("<f2"),
    "BF16": BFLOAT16,
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
    "I8": np.dtype("i1"),
    "I16": np.dtype("<i2"),
    "I32": np.dtype("<i4"),
    "I64": np.dtype("<i8"),
    "U8": np.dtype("u1"),
    "U16": np.dtype("<u2"),
    "U32": np.dtype("<u4"),
    "U64": np.dtype("<u8"),
    "BOOL": np.dtype("?"),
}


class InputError(Exception):
    """What is wrong with the files or the arguments, in one line for the user."""


def reason(error):
    """The system's words for an OSError without its number and file name."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


class StoredArray:
    """An array in a file, of which no more is mapped into memory than is asked for.

    Parameters
    ----------
    name : str
        What the user calls it.
    path : str
        The file, in which its entries lie from byte `offset` on.
    shape : tuple of int
    dtype : dtype
        Any but object, in any byte order; `BFLOAT16` for that.
    fortran_order : bool
    values : ndarray, optional
        The array itself, if it is in memory already.
    """

    def __init__(self, name, path, shape, dtype, offset=0, fortran_order=False, values=None):
        self.name = name
        self.path = path
        self.shape = shape
        self.dtype = dtype
        self.offset = offset
        self.fortran_order = fortran_order and len(shape) > 1
        self.values = values

    @property
    def ndim(self):
        return len(self.shape)

    @property
    def size(self):
        return math.prod(self.shape)

    def whole(self):
        """The array, mapped at a stretch: what is never looked at is never read."""
        if self.values is None:
            self.values = self.map(self.offset, self.shape)
        return self.values

    def rows(self, start, stop, row_ndim, *, all_at_once=True):
        """Rows of the last `row_ndim` dimensions, numbered in C order over the others.

        `all_at_once` where all of them will be looked at, so that the system need not find out page
        by page.
        """
        outer, row = self.shape[: self.ndim - row_ndim], self.shape[self.ndim - row_ndim :]
        if start == stop or (self.values is None and not self.fortran_order):
            first = start * math.prod(row) * self.dtype.itemsize
            return self.map(self.offset + first, (stop - start, *row), all_at_once)
        array = self.whole()
        if array.flags.c_contiguous:
            return array.reshape(-1, *row)[start:stop]
        pieces = [array[index].reshape(-1, *row) for index in rectangles(outer, start, stop)]
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def map(self, offset, shape, all_at_once=False):
        if 0 in shape:
            return np.empty(shape, self.dtype)
        before = offset % mmap.ALLOCATIONGRANULARITY
        length = before + math.prod(shape) * self.dtype.itemsize
        options = {"access": mmap.ACCESS_READ}
        if all_at_once and hasattr(mmap, "MAP_POPULATE"):
            options = {"prot": mmap.PROT_READ, "flags": mmap.MAP_SHARED | mmap.MAP_POPULATE}
        try:
            with open(self.path, "rb") as file:
                mapped = mmap.mmap(file.fileno(), length, offset=offset - before, **options)
        except OSError as error:
            raise InputError(f"{self.path}: {reason(error)}") from None
        except ValueError:  # the file was cut off meanwhile
            raise InputError(f"{self.path}: has become shorter since it was opened") from None
        order = "F" if self.fortran_order else "C"
        return np.ndarray(shape, self.dtype, mapped, before, order=order)


def float_input(array):
    """Floats of a file as the functions take them, bfloat16 too."""
    if array.dtype != BFLOAT16:
        return array
    return Source(np.require(array["bfloat16"], np.uint16, "A"), "bf16")


def dtype_name(dtype):
    return "bfloat16" if dtype == BFLOAT16 else str(dtype)


def split_member(argument):
    """The path and, if one is named, the member of ``path:member``."""
    if not os.path.exists(argument) and ":" in argument:
        head, _, tail = argument.rpartition(":")
        if os.path.exists(head) or glob.has_magic(head):
            return head, tail
    return argument, None


def open_shards(argument, default_members):
    """The arrays that `argument` stands for: one, or those of the files of a pattern.

    A pattern (``'logits-*.npy'``, ``'*.safetensors:NAME'``) stands for its files in natural order:
    part 10 comes after part 9.
    """
    path, member = split_member(argument)
    if os.path.exists(path) or not glob.has_magic(path):
        return [open_array(argument, default_members)]
    paths = sorted(glob.glob(path), key=natural)
    if not paths:
        raise InputError(f"{path}: no file matches")
    suffix = "" if member is None else f":{member}"
    return [open_array(path + suffix, default_members) for path in paths]


def natural(path):
    """A sorting key by which numbers count as such."""
    parts = re.split(r"([0-9]+)", path)
    return [(int(p), len(p)) if i % 2 else p for i, p in enumerate(parts)], path


def open_array(argument, default_members):
    """Open an array in a file: a `StoredArray`, in memory already if it is in an .npz file.

    Parameters
    ----------
    argument : str
        The path of a file, or ``path.npz:member`` or ``path.safetensors:name``.
    default_members : tuple of str
        The members looked for in a file that holds several, in this order.

    Raises
    ------
    InputError
        If there is no such file or member, or it is damaged, or it holds Python objects.
    """
    path, member = split_member(argument)
    try:
        # Opening a named pipe would wait for its writer.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise InputError(f"{path}: is not a regular file")
        with open(path, "rb") as file:
            magic = file.read(len(npy.MAGIC_PREFIX))
            file.seek(0)
            if magic == npy.MAGIC_PREFIX:
                if member is not None:
                    raise InputError(f"{path}: is a .npy file, it has no member {member!r}")
                size = os.fstat(file.fileno()).st_size
                shape, fortran_order, dtype, offset = read_npy_header(file, size, path)
                check_dimensions(path, shape)
                return StoredArray(argument, path, shape, dtype, offset, fortran_order)
            if magic[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
                values = read_npz(file, path, member, default_members)
                return StoredArray(argument, path, values.shape, values.dtype, values=values)
            if magic and path.endswith(".safetensors"):
                return open_safetensors(file, argument, path, member, default_members)
    except OSError as error:
        raise InputError(f"{path}: {reason(error)}") from None
    if not magic:
        raise InputError(f"{path}: is empty")
    raise InputError(f"{path}: is neither a .npy nor an .npz nor a .safetensors file")


def check_dimensions(path, shape):
    """An array of NumPy has only so many dimensions."""
    try:
        np.empty((0,) * len(shape))
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None


def open_safetensors(file, argument, path, member, default_members):
    """A tensor of an open .safetensors file."""
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > size - 8:
        raise InputError(f"{path}: is truncated, it has {size} bytes with a header of {length}")
    if length > LONGEST_JSON_HEADER:
        raise InputError(f"{path}: has a header of {length} bytes, more than {LONGEST_JSON_HEADER}")
    data_start = 8 + length
    tensors = read_tensors(file.read(length), size - data_start, path)
    member = choose_member(path, member, tensors, default_members)
    code, shape, begin, end = tensors[member]
    if code not in SAFETENSORS_DTYPES:
        raise InputError(
            f"{path}: {member} has dtype {code}, expected one of {', '.join(SAFETENSORS_DTYPES)}"
        )
    check_dimensions(path, shape)
    dtype = SAFETENSORS_DTYPES[code]
    if math.prod(shape) * dtype.itemsize != end - begin:
        raise InputError(
            f"{path}: {member} has {end - begin} bytes of data, expected"
            f" {math.prod(shape) * dtype.itemsize} for {code} of shape {shape}"
        )
    return StoredArray(argument, path, shape, dtype, data_start + begin)


def read_tensors(header, size, path):
    """What a .safetensors header says: {name: (dtype, shape, begin, end)}, all of it in order."""

    def unique(pairs):
        if len(dict(pairs)) < len(pairs):
            raise ValueError
        return dict(pairs)

    tensors = {}
    try:
        entries = json.loads(header, object_pairs_hook=unique)
        entries.pop("__metadata__", None)
        for name, entry in entries.items():
            code, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
            if (
                not isinstance(code, str)
                or not isinstance(shape, list)
                or any(type(n) is not int or n < 0 for n in (*shape, begin, end))
                or math.prod(max(1, n) for n in shape) > sys.maxsize // 8
            ):
                raise ValueError
            tensors[name] = code, tuple(shape), begin, end
    except MemoryError:
        raise
    except Exception:  # of the JSON parser, or of what is not where it should be
        raise InputError(f"{path}: has a damaged .safetensors header") from None
    place, last = 0, "the header"
    for name, (_, _, begin, end) in sorted(tensors.items(), key=lambda item: item[1][2:]):
        if end > size:
            raise InputError(f"{path}: is truncated, {name} ends at byte {end} of {size}")
        if begin != place or end < begin:
            fault = "overlaps" if begin < place else "does not follow"
            raise InputError(
                f"{path}: has a damaged .safetensors header: {name} ({begin} to {end}) {fault}"
                f" {last}"
            )
        place, last = end, name
    if place != size:
        raise InputError(f"{path}: holds {size - place} bytes behind its last tensor")
    return tensors


def read_npy_header(stream, size, name):
    """Shape, Fortran order, dtype and data offset of the .npy data of `size` bytes in `stream`."""
    start = stream.read(LONGEST_HEADER + 12)
    header = io.BytesIO(start)
    try:
        major, _ = npy.read_magic(header)
        length_bytes = {1: 2, 2: 4, 3: 4}[major]
        length = int.from_bytes(header.read(length_bytes), "little")
        if length > LONGEST_HEADER:
            raise InputError(f"{name}: has a header of {length} bytes, more than {LONGEST_HEADER}")
        header.seek(-length_bytes, io.SEEK_CUR)
        # Versions 2 and 3 differ in the encoding of field names alone.
        read = npy.read_array_header_1_0 if major == 1 else npy.read_array_header_2_0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            shape, fortran_order, dtype = read(header)
    except InputError:
        raise
    except Exception:  # a damaged header fails in as many ways as Python's parser has
        raise InputError(f"{name}: has a damaged .npy header") from None
    if dtype.hasobject:
        raise InputError(f"{name}: holds Python objects, which are never loaded")
    if (
        any(isinstance(n, bool) or n < 0 for n in shape)
        or dtype.itemsize == 0
        or dtype.subdtype is not None
        # More than an array can hold, where NumPy counts a length of 0 as 1.
        or math.prod(max(1, n) for n in shape) * dtype.itemsize > sys.maxsize
    ):
        raise InputError(f"{name}: has a damaged .npy header")
    expected = math.prod(shape) * dtype.itemsize
    present = size - header.tell()
    if present < expected:
        raise InputError(f"{name}: is truncated, it holds {present} of {expected} bytes of data")
    return shape, fortran_order, dtype, header.tell()


def read_npz(file, path, member, default_members):
    """A member of an open .npz file, loaded into memory."""
    try:
        with zipfile.ZipFile(file) as archive:
            sizes = {
                entry.filename.removesuffix(".npy"): entry.file_size
                for entry in archive.infolist()
                if entry.filename.endswith(".npy")
            }
            member = choose_member(path, member, sizes, default_members)
            name = f"{path}:{member}"
            with archive.open(f"{member}.npy") as stream:
                read_npy_header(stream, sizes[member], name)
            with archive.open(f"{member}.npy") as stream, warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return npy.read_array(stream, allow_pickle=False)
    except (InputError, OSError):
        raise
    except MemoryError:
        raise InputError(
            f"{path}: does not fit into memory; saved as .npy it is worked through in chunks"
        ) from None
    except Exception as error:  # zipfile raises BadZipFile, zlib.error, RuntimeError, EOFError ...
        raise InputError(f"{path}: is a damaged .npz file ({reason(error)})") from None


def choose_member(path, member, members, default_members):
    if member is None:
        if len(members) == 1:
            return next(iter(members))
        for default in default_members:
            if default in members:
                return default
    elif member in members:
        return member
    elif member.removesuffix(".npy") in members:
        return member.removesuffix(".npy")
    if not members:
        raise InputError(f"{path}: holds no arrays")
    listing = ", ".join(list(members)[:MOST_NAMES_LISTED])
    if len(members) > MOST_NAMES_LISTED:
        listing += f" and {len(members) - MOST_NAMES_LISTED} more"
    if member is None:
        raise InputError(f"{path}: holds several arrays ({listing}), name one as {path}:NAME")
    raise InputError(f"{path}: has no member {member!r}, only {listing}")


def index_blocks(shape, most):
    """Cut the indices of an array of this shape, in C order, into blocks.

    Yields tuples with one slice a dimension; a block holds at most `most` entries (at least one),
    which follow each other in C order. An empty array has none.
    """
    if 0 in shape:
        return
    most = max(1, most)
    inner, split = 1, len(shape)
    while split > 0 and inner * shape[split - 1] <= most:
        split -= 1
        inner *= shape[split]
    whole = tuple(slice(0, n) for n in shape[split:])
    if split == 0:
        yield whole
        return
    split -= 1
    step = most // inner
    for outer in np.ndindex(*shape[:split]):
        fixed = tuple(slice(i, i + 1) for i in outer)
        for start in range(0, shape[split], step):
            yield (*fixed, slice(start, min(start + step, shape[split])), *whole)


class OutputFile:
    """A file that appears under its name when it is complete, or not at all.

    It is written without a name where the system can do that (Linux), so that even a killed process
    leaves nothing behind; elsewhere under a temporary name in the same folder. A context manager:
    the file appears at the end of the block unless an exception leaves it.

    Parameters
    ----------
    path : str
        Replaced if it is a regular file, which keeps its permissions; a symbolic link stays one.

    Raises
    ------
    InputError
        If `path` exists and is not a regular file, or is not the name of one (`folder/`).
    OSError
        If the system cannot write it.
    """

    def __init__(self, path):
        if os.path.basename(path) in ("", os.curdir, os.pardir):
            raise InputError(f"{path}: is not the name of a file")
        self.path = os.path.realpath(path)
        self.folder = os.path.dirname(self.path)
        self.temporary = os.path.join(self.folder, f".softmax-fast.{secrets.token_hex(8)}.tmp")
        self.named = False
        self.file = None

    def __enter__(self):
        mode = None
        if os.path.exists(self.path):
            mode = os.stat(self.path).st_mode
            if not stat.S_ISREG(mode):
                raise InputError(f"{self.path}: exists and is not a regular file")
            if not os.access(self.path, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), self.path)
        try:
            self.file = self.open()
            if mode is not None and hasattr(os, "fchmod"):
                os.fchmod(self.file.fileno(), stat.S_IMODE(mode))
        except BaseException:
            self.discard()
            raise
        return self

    def open(self):
        binary = getattr(os, "O_BINARY", 0) | os.O_WRONLY
        if hasattr(os, "O_TMPFILE") and os.path.isdir("/proc/self/fd"):
            try:
                return os.fdopen(os.open(self.folder, os.O_TMPFILE | binary, 0o666), "wb")
            except OSError as error:
                # What kernels and file systems without it answer; anything else is a real failure.
                if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL):
                    raise
        self.named = True
        flags = os.O_CREAT | os.O_EXCL | binary
        return os.fdopen(os.open(self.temporary, flags, 0o666), "wb")

    def write(self, data):
        self.file.write(data)

    def write_array_header(self, shape, dtype):
        self.shape = shape
        npy.write_array_header_1_0(
            self.file,
            {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape},
        )
        self.data_start = self.file.tell()

    def write_block(self, index, block):
        """Put a C-contiguous block where the slices in `index` say."""
        # From this dimension on the block's entries follow each other in the file.
        split = block.ndim - 1
        while split > 0 and block.shape[split] == self.shape[split]:
            split -= 1
        inner = math.prod(self.shape[split + 1 :])
        first = [part.start for part in index[: split + 1]]
        for outer in np.ndindex(*block.shape[:split]):
            position = np.ravel_multi_index(np.add(first, (*outer, 0)), self.shape[: split + 1])
            self.file.seek(self.data_start + position * inner * block.itemsize)
            self.file.write(block[outer])

    def __exit__(self, kind, *exception):
        try:
            if kind is None:
                self.publish()
        finally:
            self.discard()

    def publish(self):
        """Give the complete file its name."""
        self.file.flush()
        os.fsync(self.file.fileno())
        if os.name == "posix":
            folder = os.open(self.folder, os.O_RDONLY)
            try:
                if not self.named:
                    self.named = True
                    unnamed = f"/proc/self/fd/{self.file.fileno()}"
                    # With a folder's descriptor Python calls linkat, which can follow this link.
                    os.link(unnamed, os.path.basename(self.temporary), dst_dir_fd=folder)
                self.file.close()
                os.replace(self.temporary, self.path)
                self.named = False
                with contextlib.suppress(OSError):  # not every file system can
                    os.fsync(folder)
            finally:
                os.close(folder)
        else:
            self.file.close()
            os.replace(self.temporary, self.path)
            self.named = False

    def discard(self):
        if self.file is not None:
            with contextlib.suppress(OSError):  # of a disk that is still full
                self.file.close()
        if self.named:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.temporary)
