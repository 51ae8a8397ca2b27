"""What a runtime's own profiler tells of a file: its kernels, the layers that each is of, and what each took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgesdk.core.budget import show
from edgesdk.core.serialize import from_json

TOO_SHORT = "under 1 \N{GREEK SMALL LETTER MU}s"
"""What a kernel took whose runtime counts whole microseconds and counted none."""


@dataclass(frozen=True)
class Kernel:
    """A kernel that ran: ``operator`` as the runtime calls it, for the ``layers`` of the plan that are fused in it.

    ``share`` is that of all kernels' time in one run, ``profiled_ms`` its own, under the profiler, which slows runs;
    each is ``None`` where the runtime tells no times. ``precision`` is what it computes in, spelt as a plan does, and
    ``provider`` who runs it: both as the runtime tells. ``low_ms`` to ``high_ms`` is what eight of ten runs took, where
    the runtime tells single runs. ``layers`` is empty for what is of no layer, as a change of layout is; for a file
    without a plan it has the names that the runtime tells.
    """

    name: str
    operator: str
    provider: str
    precision: str | None
    layers: tuple[str, ...]
    share: float | None
    profiled_ms: float | None
    low_ms: float | None = None
    high_ms: float | None = None


@dataclass(frozen=True)
class KernelProfile:
    """The ``kernels`` of a file in the order in which they ran, by the profiler of its runtime, in a pass of its own.

    ``run_ms`` is a whole run under the profiler, ``plain_ms`` one without it, medians of so many ``runs`` of each,
    blocks of which took turns: the profiler costs the difference. ``None`` where the runtime tells no times; the first
    is where its profiler tells those of kernels alone.
    """

    runtime: str
    runtime_version: str
    kernels: tuple[Kernel, ...]
    runs: int = 0
    run_ms: float | None = None
    plain_ms: float | None = None

    @property
    def kernels_ms(self) -> float | None:
        """What all kernels take in a run; ``None`` where the runtime tells no times."""
        times = [kernel.profiled_ms for kernel in self.kernels if kernel.profiled_ms is not None]
        return sum(times) if times else None


def read_profiles(document: Mapping[str, Any]) -> dict[str, KernelProfile]:
    """The profiles of a report of a deployment, or of a benchmark, by the names of their files; none of one before."""
    return {name: from_json(KernelProfile, profile) for name, profile in (document.get("profiles") or {}).items()}


def describe_cost(profile: KernelProfile) -> str:
    """In a line, what a run takes with the profiler and without, and what all kernels add up to."""
    kernels_ms, run_ms, plain_ms = profile.kernels_ms, profile.run_ms, profile.plain_ms
    if kernels_ms is None or not plain_ms:
        return "the runtime tells no times of its kernels"
    if run_ms is None:
        without, whole = show("latency_ms", plain_ms), show("latency_ms", kernels_ms)
        return f"the kernels add up to {whole} under the profiler, a run without it takes {without}, copies with it"
    with_it, without, whole = (show("latency_ms", ms) for ms in (run_ms, plain_ms, kernels_ms))
    cost = f"{100 * (run_ms / plain_ms - 1):+.0f} %"
    of = f"{cost}; medians of {profile.runs} each in turns, which are slower than runs in a row"
    return f"a run takes {with_it} under the profiler and {without} without it ({of}), its kernels add up to {whole}"


@dataclass(frozen=True)
class Part:
    """Layers that no kernel tells apart, and what the kernels of them all take: ``layers`` is empty for the kernels of
    no layer, which are one part together. ``low_ms`` to ``high_ms`` is known where there is one kernel alone."""

    layers: tuple[str, ...]
    kernels: tuple[Kernel, ...]
    ms: float
    low_ms: float | None
    high_ms: float | None


def group_by_layers(kernels: Sequence[Kernel]) -> list[Part]:
    """The timed ``kernels`` as parts, in the order in which they ran: fused layers are one part."""
    timed = [kernel for kernel in kernels if kernel.profiled_ms is not None]
    part_of: dict[str | None, list[int]] = {}  # the places of its kernels, by layer; of no layer by None
    for place, kernel in enumerate(timed):
        names = kernel.layers or (None,)
        joined = {id(part): part for name in names if (part := part_of.get(name)) is not None}
        whole = sorted([place, *(number for part in joined.values() for number in part)])
        for name in {*names, *(name for number in whole for name in timed[number].layers)}:
            part_of[name] = whole
    places = {id(part): part for part in part_of.values()}
    return [_join([timed[place] for place in part]) for part in sorted(places.values())]


def _join(kernels: Sequence[Kernel]) -> Part:
    layers = dict.fromkeys(name for kernel in kernels for name in kernel.layers)
    low, high = (kernels[0].low_ms, kernels[0].high_ms) if len(kernels) == 1 else (None, None)
    return Part(tuple(layers), tuple(kernels), sum(kernel.profiled_ms or 0.0 for kernel in kernels), low, high)


def find_slower(own: Sequence[Kernel], other: Sequence[Kernel]) -> set[str]:
    """The layers whose kernels in one file, its ``own``, take no less time than those in the ``other`` file.

    Layers that are fused in either are one: whether one of them is faster, nothing tells. What is of no layer, as a
    change of layout is, counts for none, and nothing is said of layers that one file alone has kernels of.
    """
    parts = [part.layers for part in group_by_layers([*own, *other]) if part.layers]
    slower: set[str] = set()
    for layers in parts:
        mine, theirs = (
            [
                kernel.profiled_ms
                for kernel in kernels
                if kernel.profiled_ms is not None and {*kernel.layers} & {*layers}
            ]
            for kernels in (own, other)
        )
        if mine and theirs and sum(mine) >= sum(theirs):
            slower |= {*layers}
    return slower
