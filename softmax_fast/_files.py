"""Arrays in .npy and .npz files: read safely, cut into blocks, written as a whole or not at all."""

import contextlib
import errno
import io
import math
import os
import secrets
import stat
import sys
import warnings
import zipfile

import numpy as np
from numpy.lib import format as npy

LONGEST_HEADER = 10_000


class InputError(Exception):
    """What is wrong with the files or the arguments, in one line for the user."""


def reason(error):
    """The system's words for an OSError without its number and file name."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def read_array(argument, default_members):
    """Open an array in a file, mapped into memory where it is a .npy file.

    Parameters
    ----------
    argument : str
        The path of a .npy or .npz file, or ``path.npz:member``.
    default_members : tuple of str
        The members looked for in an .npz file that holds several, in this order.

    Returns
    -------
    ndarray
        Read-only if mapped; any dtype but object, any byte order, any alignment.

    Raises
    ------
    InputError
        If there is no such file or member, or it is damaged, or it holds Python objects.
    """
    path, member = argument, None
    if not os.path.exists(path) and ":" in path:
        head, _, tail = path.rpartition(":")
        if os.path.exists(head):
            path, member = head, tail
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
                return map_npy(file, path)
            if magic[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
                return read_npz(file, path, member, default_members)
    except OSError as error:
        raise InputError(f"{path}: {reason(error)}") from None
    if not magic:
        raise InputError(f"{path}: is empty")
    raise InputError(f"{path}: is neither a .npy nor an .npz file")


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


def map_npy(file, path):
    """The array of an open .npy file, mapped into memory."""
    size = os.fstat(file.fileno()).st_size
    shape, fortran_order, dtype, offset = read_npy_header(file, size, path)
    order = "F" if fortran_order else "C"
    try:
        if 0 in shape:
            return np.empty(shape, dtype)
        mapped = np.memmap(file, mode="r", dtype=dtype, shape=shape, order=order, offset=offset)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None
    return mapped.view(np.ndarray)


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
    elif member.removesuffix(".npy") in members:
        return member.removesuffix(".npy")
    if not members:
        raise InputError(f"{path}: holds no arrays")
    listing = ", ".join(members)
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
    """A .npy file that appears under its name when it is complete, or not at all.

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
