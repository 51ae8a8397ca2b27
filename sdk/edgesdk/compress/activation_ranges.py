"""Ranges of activations, chosen per tensor by what they do to the network's outputs.

All that was seen (min-max) is right where the data are. One sample of a broken sensor makes every other one a zero of
that range; a few large values in each sample make it coarse. Both show: in the extremes of samples, and in how far the
largest value is from a typical one. Only tensors where they show are looked at more closely.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edgesdk.compress.integers import ActivationQuantizer, finite
from edgesdk.network.network import Batch, Network, figures, rebatch, tensors
from edgesdk.techniques.ranges import Histogram, mse, percentile

FAR = 4.0  # times the reach of most samples: what is farther may be an error of the sensor
CREST = 25.0  # times the root mean square: what is farther makes a range coarse
RARE = 0.05  # of the samples, at most, are taken for outlying
FEWEST = 8  # samples to tell
JUDGED = 64  # samples, by whose outputs a range is chosen
CLOSELY = 24  # tensors for which that is done one by one

Range = tuple[float, float]


@dataclass
class Seen:
    """What a tensor was on calibration data: the extremes of each sample, and the mean of its squares."""

    lows: Tensor
    highs: Tensor
    square: float

    @property
    def all(self) -> Range:
        return min(float(self.lows.min()), 0.0), max(float(self.highs.max()), 0.0)

    @property
    def most(self) -> Range:
        """The extremes without those of the most extreme samples on either side."""
        left_out = max(1, int(len(self.lows) * RARE))
        low, high = self.lows.sort().values[left_out], self.highs.sort().values[-1 - left_out]
        return min(float(low), 0.0), max(float(high), 0.0)

    @property
    def is_suspicious(self) -> bool:
        """Whether some of what was seen may be no part of the data; of few samples nobody can tell."""
        if len(self.lows) < FEWEST:
            return False
        (low, high), (least, greatest) = self.all, self.most
        reach, usual = max(-low, high), max(-least, greatest)
        return reach > FAR * usual or reach > CREST * self.square**0.5


def see(network: Network, batches: Sequence[Batch]) -> dict[ActivationQuantizer, Seen]:
    """What each tensor that is quantized is in the float network; ``network`` must compute exactly.

    A quantizer that several tensors share, as before and after a maximum, sees them as one.
    """
    seen: dict[ActivationQuantizer, list[list[Tensor]]] = {}
    single = _of_inputs(network, rebatch(batches[0], lambda t: t[:1]), lambda part, place, value: value.shape)
    for x in batches:
        count = len(tensors(x)[0])
        found = _of_inputs(
            network, x, lambda part, place, value, count=count: _by_sample(value, single[part][place], count)
        )
        for part, values in found.items():
            lows, highs, squares = (torch.stack(column) for column in zip(*values, strict=True))
            seen.setdefault(part, []).append([lows.amin(0), highs.amax(0), squares.amax(0)])
    columns = {part: [torch.cat(values) for values in zip(*rows, strict=True)] for part, rows in seen.items()}
    return {part: Seen(low, high, float(square.median())) for part, (low, high, square) in columns.items()}


def _of_inputs(network: Network, x: Batch, read: Callable[..., Any]) -> dict[ActivationQuantizer, list[Any]]:
    """What ``read`` makes of each tensor that a quantizer sees in ``x``; it is given its place among these."""
    seen: dict[ActivationQuantizer, list[Any]] = {}

    def note(part: Any, inputs: Any, _: object) -> None:
        found = seen.setdefault(part, [])
        found.append(read(part, len(found), inputs[0]))

    _run(network, [x], note)
    return seen


def _by_sample(value: Tensor, one: torch.Size, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The least, the greatest and the mean square of each of ``count`` samples; ``one`` is the shape of one's.

    Samples are in the axis that is longer of more of them: windows and tokens may be a batch, and time be first.
    """
    axis = next((axis for axis, size in enumerate(value.shape) if size != one[axis]), 0)
    rows = finite(value).movedim(axis, 0).reshape(1 if value.numel() % count else count, -1).expand(count, -1)
    return rows.amin(1), rows.amax(1), rows.square().mean(1)


def usual(batches: Sequence[Batch], seen: Mapping[ActivationQuantizer, Seen]) -> list[Batch]:
    """``batches`` without the samples that reach far beyond most in some tensor, where these are rare."""
    far = [
        torch.maximum(-values.lows, values.highs) > FAR * _reach(values.most)
        for values in seen.values()
        if values.is_suspicious
    ]
    count = len(next(iter(seen.values())).lows) if seen else 0
    stays = ~torch.stack(far).any(0) if far else torch.ones(count, dtype=torch.bool)
    if not seen or stays.all() or stays.float().mean() < 1 - 2 * RARE:
        return list(batches)
    masks = stays.split([len(tensors(x)[0]) for x in batches])
    return [rebatch(x, lambda t, kept=kept: t[kept]) for x, kept in zip(batches, masks, strict=True) if kept.any()]


def choose(
    network: Network,
    batches: Sequence[Batch],
    seen: Mapping[ActivationQuantizer, Seen],
    exactly: Callable[[bool], None],
) -> None:
    """Narrow the ranges of suspicious tensors where that brings the network's outputs nearer to the float ones.

    ``exactly`` makes the network compute as the float one, or not. Ranges that were narrowed are held while training.
    """
    suspicious = {part: values for part, values in seen.items() if values.is_suspicious}
    if not suspicious:
        return
    x = _some(batches, JUDGED)
    exactly(True)
    wanted = network.flat(x)
    candidates = _candidates(network, batches, suspicious)
    exactly(False)

    def off(chosen: Mapping[ActivationQuantizer, Range]) -> float:
        for part, (low, high) in chosen.items():
            part.low.fill_(low)
            part.high.fill_(high)
            part.fit()
        return _off(network.flat(x), wanted)

    off({part: values.all for part, values in seen.items()})  # what was seen behind a range too wide is too narrow
    schemes = [{part: ranges[i] for part, ranges in candidates.items()} for i in range(4)]
    errors = [off(scheme) for scheme in schemes]
    best, error = schemes[errors.index(min(errors))], min(errors)
    widest = sorted(suspicious, key=lambda part: _reach(seen[part].most) / max(_reach(seen[part].all), 1e-30))
    for part in widest[:CLOSELY]:
        for candidate in dict.fromkeys(candidates[part]):
            tried = {**best, part: candidate}
            if candidate != best[part] and (reached := off(tried)) < error:
                best, error = tried, reached
    off(best)
    for part, chosen in best.items():
        part.held = chosen != seen[part].all


def _candidates(
    network: Network, batches: Sequence[Batch], suspicious: Mapping[ActivationQuantizer, Seen]
) -> dict[ActivationQuantizer, list[Range]]:
    """For each tensor all that was seen, what most samples reach, and of that a percentile and the least squares."""
    histograms: dict[ActivationQuantizer, Histogram] = {}

    def note(part: Any, inputs: Any, _: object) -> None:
        if part in suspicious:
            low, high = suspicious[part].most
            histogram = Histogram.of(inputs[0].clamp(low, high), max(-low, high))
            histograms[part] = histograms[part] + histogram if part in histograms else histogram

    _run(network, batches, note)
    return {
        part: [
            suspicious[part].all,
            suspicious[part].most,
            percentile(histogram),
            mse(histogram, part.grid.high - part.grid.low, part.grid.symmetric),
        ]
        for part, histogram in histograms.items()
    }


def _off(outputs: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    """How far outputs are off, on average over samples: of each at most all of it, so that no single one decides."""
    total = 0.0
    for actual, expected in zip(outputs, wanted, strict=True):
        if not expected.is_floating_point():
            continue
        actual, expected = figures(actual.double()), figures(expected.double())
        spread = (expected - expected.median(0).values).square().mean(1).median().clamp(min=1e-30)
        share = ((actual - expected).square().mean(1) / spread).nan_to_num(nan=1.0)
        total += float(share.clamp(max=1.0).mean())
    return total


def _some(batches: Sequence[Batch], most: int) -> list[Tensor]:
    """At most ``most`` samples, evenly from all."""
    columns = [torch.cat(parts) for parts in zip(*(tensors(x) for x in batches), strict=True)]
    step = -(-len(columns[0]) // most)
    return [column[::step] for column in columns]


def _run(network: Network, batches: Sequence[Batch], note: Any) -> None:
    parts = [part for part in network.module.modules() if isinstance(part, ActivationQuantizer)]
    handles = [part.register_forward_hook(note) for part in parts]
    for x in batches:
        network.flat(x)
    for handle in handles:
        handle.remove()


def _reach(ends: Range) -> float:
    return max(-ends[0], ends[1])
