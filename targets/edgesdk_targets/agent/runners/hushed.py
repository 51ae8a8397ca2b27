"""What libraries in C tell on stderr of themselves, kept from it."""

from __future__ import annotations

import io
import os
import tempfile
from contextlib import contextmanager, redirect_stderr
from typing import Iterator


@contextmanager
def hushed() -> Iterator[None]:
    """Keep off stderr, which is Python's or C's, what is told meanwhile; what is wrong is raised."""
    with tempfile.TemporaryFile() as file, redirect_stderr(io.StringIO()):
        kept = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
