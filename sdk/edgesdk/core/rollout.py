"""Where each board of a pool stands after an installation in stages, or a rollback: a document."""

from __future__ import annotations

from dataclasses import dataclass

from edgesdk.core.schema import Schema

INSTALLED, UNCHANGED, FAILED, WAITING = "installed", "unchanged", "failed", "not begun"
ROLLED_BACK, NOT_ROLLED_BACK, OUT_OF_REACH, UNKNOWN = "rolled back", "not rolled back", "out of reach", "unknown"


@dataclass(frozen=True)
class Standing:
    """Where a board stands. ``version`` is what runs there now and ``previous`` what ran before, as far as is known.

    ``state`` is ``installed``; ``unchanged`` where that version ran before; ``failed``, where what ran before runs on;
    ``rolled back`` or ``not rolled back`` after another one failed; ``not begun``; ``out of reach`` where it did not
    answer, so that nothing was begun there; ``unknown`` where it no longer answers. ``stage`` counts from 1, ``fact``
    says why, and ``latency_ms`` and ``peak_memory_bytes`` were measured where the bundle's budget bounds them.
    """

    device: str
    state: str
    stage: int | None = None
    version: str | None = None
    previous: str | None = None
    latency_ms: float | None = None
    peak_memory_bytes: int | None = None
    fact: str | None = None
    remedy: str | None = None


@dataclass(frozen=True)
class Rollout:
    """Where each board of a pool stands after an installation or a rollback.

    ``exit_code`` is 0 where each was done; else that of the first that failed, or 6 where some are out of reach alone.
    """

    pool: str
    boards: tuple[Standing, ...]
    exit_code: int
    schema: str = Schema("rollout", 1)
