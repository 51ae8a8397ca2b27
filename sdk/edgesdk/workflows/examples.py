"""Worked examples: folders with a network, its data, how it is trained and deployed, to copy and begin from."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path

from edgesdk.core.errors import StorageError, UsageError

HOME = files("edgesdk.example") / "_worked"
PAGE = "README.md"


def examples() -> dict[str, str]:
    """What each example is of, in a line, by its name."""
    found = sorted(entry.name for entry in HOME.iterdir() if (entry / PAGE).is_file())
    return {name: _title(name) for name in found}


def copy_example(name: str, to: Path) -> Path:
    """The folder ``to``, made with the example ``name`` in it.

    Raises ``UsageError`` where there is no such example or the folder has files already, and ``StorageError`` where it
    cannot be written.
    """
    if name not in examples():
        raise UsageError(f"there is no example {name!r}", f"take one of {', '.join(examples())}")
    try:
        if to.exists() and (not to.is_dir() or any(to.iterdir())):
            raise UsageError(f"{to} is not an empty folder", "name another one: edgesdk examples NAME FOLDER")
        to.mkdir(parents=True, exist_ok=True)
        with as_file(HOME / name) as folder:
            for file in sorted(path for path in folder.iterdir() if path.is_file()):
                (to / file.name).write_bytes(file.read_bytes())
    except OSError as error:
        raise StorageError(f"{to} cannot be written ({error.strerror})", "name another folder") from None
    return to


def _title(name: str) -> str:
    first, *_ = (HOME / name / PAGE).read_text(encoding="utf-8").splitlines()
    return first.removeprefix("# ")
