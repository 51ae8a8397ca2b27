"""How a runtime that plans memory lays buffers out: who shares one, and what an arena of growing regions touches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

UNIT = 256  # bytes: the arena's least piece
LATE = (
    2  # steps by which what several kernels read is given back after the last of them, as traces of ONNX Runtime show
)


@dataclass(frozen=True)
class Step:
    """A kernel: the tensor that it makes, its bytes, what it reads, its scratch, and whose buffer it writes into.

    ``shape`` is what the tensor's buffer may be taken for again: by one of as many bytes and the same shape.
    """

    makes: str
    size: float
    reads: tuple[str, ...]
    scratch: tuple[float, ...] = ()
    into: str | None = None
    shape: tuple[int, ...] = ()


def up(value: float, step: int) -> int:
    return ceil(value / step) * step


def buffers(steps: list[Step], kept: set[str]) -> list[tuple[float, int, int]]:
    """Each buffer's bytes, and the steps with which it begins and ends, as the runtime plans them.

    A tensor takes the buffer of one that nothing reads any more: that which it is written into, or any of its size and
    shape, what was idle last first. What is ``kept`` has a buffer of its own, which ends after all steps.
    """
    last = {step.makes: index for index, step in enumerate(steps)}
    for index, step in enumerate(steps):
        last.update({name: index for name in step.reads if name in last})
    last.update({name: len(steps) for name in kept})
    reads = Counter(name for step in steps for name in step.reads)
    buffer_of: dict[str, int] = {}
    buffers: list[tuple[float, int, int]] = []
    shapes: list[tuple[int, ...]] = []
    idle: list[int] = []
    for index, step in enumerate(steps):
        into = buffer_of.get(step.into) if step.into and step.makes not in kept else None
        if into is not None and buffers[into][0] == step.size and last[str(step.into)] <= index:
            chosen = into
        elif step.makes not in kept and (
            fits := [n for n in idle if (buffers[n][0], shapes[n]) == (step.size, step.shape)]
        ):
            chosen = fits[-1]
            idle.remove(chosen)
        else:
            chosen = len(buffers)
            buffers.append((step.size, index, index))
            shapes.append(step.shape)
        buffer_of[step.makes] = chosen
        size, begin, end = buffers[chosen]
        buffers[chosen] = (size, begin, max(end, last[step.makes]))
        for number in {buffer_of[name] for name in (*step.reads, step.makes) if name in buffer_of}:
            if buffers[number][2] <= index and number not in idle:
                idle.append(number)
    late = {number for name, number in buffer_of.items() if reads[name] > 1}
    ends = [min(end + LATE * (n in late), max(end, len(steps) - 1)) for n, (_, _, end) in enumerate(buffers)]
    return [(size, begin, end) for (size, begin, _), end in zip(buffers, ends, strict=True)]


def pattern_bytes(count: int, buffers: Sequence[tuple[float, int, int]]) -> int:
    """The one block that holds ``buffers`` over so many steps: each in the gap that it fills best, or behind all.

    Gaps lie between buffers that live, so that what was freed at the end is no gap (ONNX Runtime's memory pattern).
    """
    live: list[tuple[int, int, int]] = []  # place, bytes and the last step, by place
    most = 0
    for index in range(count):
        for size, begin, end in buffers:
            if begin == index and size:
                wanted, free, fits = up(size, UNIT), 0, list[tuple[int, int, int]]()
                for at, (place, taken, _) in enumerate(live):
                    if place - free >= wanted:
                        fits.append((place - free, at, free))
                    free = place + taken
                _, at, place = min(fits, default=(0, len(live), free))
                live.insert(at, (place, wanted, end))
                most = max(most, place + wanted)
        live = [piece for piece in live if piece[2] != index]
    return most


class Arena:
    """Best fit with coalescing, in regions that grow by powers of two; ``touched`` counts what was ever given out."""

    def __init__(self, region: int) -> None:
        self.next: int = region
        self.free: list[tuple[int, int]] = []  # bytes and place
        self.used: dict[int, int] = {}
        self.high: dict[int, int] = {}  # the end of what was given out, by the begin of its region

    @property
    def touched(self) -> int:
        """Bytes that were ever given out."""
        return sum(high - begin for begin, high in self.high.items())

    def take(self, size: float) -> int:
        """The place of ``size`` bytes."""
        wanted = up(max(size, 1), UNIT)
        if not any(n >= wanted for n, _ in self.free):
            self._grow(wanted)
        n, place = min(piece for piece in self.free if piece[0] >= wanted)
        self.free.remove((n, place))
        if n >= 2 * wanted:
            self.free.append((n - wanted, place + wanted))
            n = wanted
        self.used[place] = n
        region = max(begin for begin in self.high if begin <= place)
        self.high[region] = max(self.high[region], place + wanted)
        return place

    def give(self, place: int) -> None:
        """Give back what is at ``place``."""
        size = self.used.pop(place)
        for n, other in [p for p in self.free if p[1] == place + size or sum(p) == place]:
            self.free.remove((n, other))
            place, size = min(place, other), size + n
        self.free.append((size, place))

    def lend(self, sizes: tuple[float, ...]) -> None:
        """Take pieces and give them back."""
        for place in [self.take(size) for size in sizes if size]:
            self.give(place)

    def _grow(self, wanted: int) -> None:
        grown = self.next
        while grown < wanted:
            grown *= 2
        self.next = 2 * grown if grown == self.next else grown
        begin = max((begin for begin in self.high), default=0) + (1 << 42) * bool(self.high)  # regions do not touch
        self.high[begin] = begin
        self.free.append((grown, begin))
