"""Load on every core that comes and goes, as neighbours on a shared machine are."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

BURN = "import time\nwhile True:\n end = time.time() + {on}\n while time.time() < end: pass\n time.sleep({off})"


@contextmanager
def burning(on: float = 0.2, off: float = 0.3) -> Iterator[None]:
    """Keep all cores busy for ``on`` seconds and idle for ``off``, in turns, while the block runs."""
    command = [sys.executable, "-c", BURN.format(on=on, off=off)]
    burners = [subprocess.Popen(command) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()
