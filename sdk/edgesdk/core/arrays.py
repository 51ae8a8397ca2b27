"""NumPy's archives: nothing in them is executed, and no size that they declare is believed before it is there."""

from __future__ import annotations

import zipfile
from math import prod
from pathlib import Path
from typing import IO

import numpy as np

from edgesdk.core.wording import said

DEFLATED = 1032  # bytes that deflate makes of one, at most
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
PICKLED = "it holds pickled objects"


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays in an ``.npz`` file by their names.

    Raises ``ValueError`` for what is none, or is damaged, saying what is wrong, and ``OSError`` where there is no file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                _check(archive, entry)
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except OSError:
        raise
    except Exception as error:  # zipfile, zlib, tokenize and NumPy each have their own
        raise ValueError(str(error) if str(error) == PICKLED else said(error)) from None


def _check(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> None:
    """Raise ``ValueError`` unless the array in ``entry`` is one of plain values, and as large as it says it is."""
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{entry.filename} is compressed as numpy.savez does not")
    if entry.file_size > DEFLATED * (entry.compress_size + 1):
        raise ValueError(f"{entry.filename} says that it has {entry.file_size} bytes")
    with archive.open(entry) as file:
        if file.read(1) == b"\x80":
            raise ValueError(PICKLED)
        file.seek(0)
        shape, dtype = _header(file)
        if dtype.hasobject:
            raise ValueError(PICKLED)
        if dtype.itemsize == 0 or min(shape, default=1) < 0:
            raise ValueError(f"{entry.filename} is of dtype {dtype} and shape {shape}")
        if prod(shape) * dtype.itemsize != entry.file_size - file.tell():
            raise ValueError(f"{entry.filename} has not as many values as it says: {shape}")


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(file)
    if version not in HEADERS:
        raise ValueError("an array without a plain header")
    shape, _, dtype = HEADERS[version](file)
    return shape, dtype
