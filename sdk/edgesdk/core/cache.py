"""Where what took long is kept between runs. All of it may be deleted at any time."""

from __future__ import annotations

import os
from pathlib import Path

from edgesdk.core.errors import StorageError

VARIABLE = "EDGESDK_CACHE"


def cache_folder() -> Path:
    """``EDGESDK_CACHE``, or the user's cache folder."""
    if named := os.environ.get(VARIABLE):
        return Path(named)
    import platformdirs

    return Path(platformdirs.user_cache_dir("edgesdk"))


def check_cache() -> None:
    """Raise ``StorageError`` where nothing can be written there: better at once than after an hour of work."""
    folder = cache_folder()
    probe = folder / f".probe.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"edgesdk")
        probe.unlink()
    except OSError as error:
        fact = f"the cache {folder} cannot be written ({error.strerror})"
        raise StorageError(fact, f"set {VARIABLE} to a folder that can be, or free some space") from None
