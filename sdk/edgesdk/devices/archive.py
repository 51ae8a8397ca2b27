"""The agent as one file: a zip archive that any Python from 3.8 on runs, the same bytes whenever it is made."""

from __future__ import annotations

import io
import zipfile
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from edgesdk.core.serialize import write

if TYPE_CHECKING:
    from importlib.abc import Traversable

WHEN = (1980, 1, 1, 0, 0, 0)  # the earliest that such an archive knows
MAIN = """import sys

from edgesdk_targets.agent.__main__ import main  # which any Python can read, to say what it needs

sys.exit(main())
"""


@lru_cache(maxsize=1)
def agent_archive() -> bytes:
    """The archive's content."""
    package = files("edgesdk_targets")
    sources = {"__main__.py": MAIN, "edgesdk_targets/__init__.py": (package / "__init__.py").read_text("utf-8")}
    _collect(package / "agent", "edgesdk_targets/agent", sources)
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(sources):
            archive.writestr(zipfile.ZipInfo(name, WHEN), sources[name], zipfile.ZIP_DEFLATED)
    return content.getvalue()


def build(out: str | Path) -> Path:
    """Write the agent to ``out``: ``python3 OUT`` speaks the protocol of ``edgesdk_targets.agent.protocol``.

    Raises ``StorageError`` where the file cannot be written.
    """
    out = Path(out)
    write(out, agent_archive())
    return out


def _collect(folder: Traversable, name: str, sources: dict[str, str]) -> None:
    for entry in folder.iterdir():
        if entry.is_dir() and entry.name != "__pycache__":
            _collect(entry, f"{name}/{entry.name}", sources)
        elif entry.name.endswith(".py"):
            sources[f"{name}/{entry.name}"] = entry.read_text("utf-8")
