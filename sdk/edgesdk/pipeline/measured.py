"""What whole networks were measured at in a run that has not ended, on disk, so that none is measured twice."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgesdk.core.artifact import Artifact
from edgesdk.core.errors import EdgeSdkError
from edgesdk.core.report import Measurement, Report
from edgesdk.core.serialize import digest, dumps, from_json, loads, write

HOURS = 24.0  # for which what was measured is taken up: a device may be another by then


@dataclass(frozen=True)
class MeasuredRuns:
    """Interleaved runs in ``folder``, by the files that took part and all else that their figures depend on."""

    folder: Path

    def load(self, artifacts: Mapping[str, Artifact], made_under: Any) -> dict[str, Report] | None:
        """The reports of that run; ``None`` where none is kept that can be read."""
        path = self._find_place(artifacts, made_under)
        try:
            if time.time() - path.stat().st_mtime > 3600 * HOURS:
                return None
            content = loads(path.read_text())
            return {name: from_json(Report, content[name]) for name in artifacts}
        except (OSError, ValueError, KeyError, TypeError, EdgeSdkError):
            return None

    def save(self, artifacts: Mapping[str, Artifact], made_under: Any, measured: Mapping[str, Measurement]) -> None:
        """Keep a run, if all of it was measured and counts."""
        if all(isinstance(each, Report) and each.valid for each in measured.values()):
            write(self._find_place(artifacts, made_under), dumps(measured))

    def forget(self) -> None:
        """Remove all of it: the run that it is of has ended, and another measures anew."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _find_place(self, artifacts: Mapping[str, Artifact], made_under: Any) -> Path:
        files = {name: [artifact.digest, artifact.runtime] for name, artifact in artifacts.items()}
        return self.folder / f"{digest([files, made_under])[:24]}.json"
