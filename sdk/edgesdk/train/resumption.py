"""What a training came to so far, on disk, so that a run that was interrupted goes on where it was."""

from __future__ import annotations

import io
import shutil
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from edgesdk.core.serialize import write
from edgesdk.network.placement import CPU, move

SECONDS = 20.0  # between two states of a training that are kept
DAYS = 14.0  # for which a run that was given up is kept


@dataclass(frozen=True)
class Kept:
    """States by their names, in ``folder``, which is named after all that they were made from."""

    folder: Path

    def load(self, name: str) -> dict[str, Any] | None:
        """The state of that name; ``None`` where there is none that can be read."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about the pickle protocol
                state = torch.load(self.folder / f"{name}.pt", weights_only=True)
        except Exception:  # what reads a damaged file raises whatever it trips over
            return None
        return state if isinstance(state, dict) else None

    def save(self, name: str, state: Mapping[str, Any]) -> None:
        content = io.BytesIO()
        torch.save(move(dict(state), CPU), content)  # to be taken up wherever training is then
        write(self.folder / f"{name}.pt", content.getvalue())

    def part(self, name: str) -> Kept:
        """States of a part of the run."""
        return Kept(self.folder / name)

    def forget(self) -> None:
        """Remove all of it, and what runs that were given up left beside it long ago."""
        shutil.rmtree(self.folder, ignore_errors=True)
        for other in self.folder.parent.glob("*"):
            if other.is_dir() and time.time() - other.stat().st_mtime > 86400 * DAYS:
                shutil.rmtree(other, ignore_errors=True)
