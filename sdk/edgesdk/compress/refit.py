"""A compressed network's weights in closed form: layers that answer as the dense network's, channels that can go."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from edgesdk.core.graph import WEIGHTED, Layer
from edgesdk.network.network import Batch, Network, tensors
from edgesdk.network.shared import shares_with
from edgesdk.techniques.importance import hessian
from edgesdk.techniques.layouts import as_stored
from edgesdk.techniques.reconstruction import Moments, least_squares, output_rows, weight_rows, window_rows

DAMPINGS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # of which the one that is best on what no fit saw is taken
SAMPLES = 1000  # of the calibration data at most
JUDGE = 5  # every fifth sample judges the fit
ROWS = 32_768  # places in a layer's output that are fitted and judged, over all samples
EXACT = 1e-9  # of the variance wanted: an error that is rounding
LARGEST = 4608  # columns: 512 channels of a 3x3 window; beyond it X X^T takes hundreds of megabytes

Progress = Callable[[float], None]
After = Callable[[Network, Sequence[str]], None]


@dataclass(frozen=True)
class Fit:
    """A layer's squared error on samples that no fit saw, over the variance wanted: ``before`` and ``after``.

    ``damping`` is ``None`` where the layer keeps its plain weights.
    """

    layer: str
    before: float
    after: float
    damping: float | None


@torch.no_grad()
def refit_weights(
    small: Network,
    dense: Network,
    kept: Mapping[str, Sequence[int]],
    calibration: Sequence[Batch],
    progress: Progress = lambda share: None,
    until: float | None = None,
    done: Collection[str] = (),
    after: After = lambda network, done: None,
) -> tuple[Network, tuple[Fit, ...]]:
    """A copy of ``small``, a float network that ``compressed`` made of ``dense``, with its weights fitted to data.

    Layer after layer, least squares sets the weights so that on the inputs ``calibration``, as the network up to there
    changes them, the output before the activation, BatchNorm included, is that of the dense network's layer of the same
    name. ``kept`` has the channels that are left of each group that was cut (``apply.channels_to_keep``).
    The last layer before an addition makes up for what the addition's other input is off, too (He et al. 2017,
    "Channel Pruning", section 3.2), and so for branches that were left out before. Of a factorized layer the last part
    is fitted. A BatchNorm is set so that taking its statistics again from the calibration data changes nothing.

    Each fifth sample is first kept from the fits: it chooses their damping, and a layer whose fit makes its error there
    no smaller stays as it is. Then all samples are fitted. A layer that runs several times is fitted once, to what it
    is to answer in all of its calls. Layers that have more than ``LARGEST`` columns stay as they are, too, all of them
    where there are fewer than ``JUDGE`` samples, and those that are not fitted ``until`` then, on the monotonic clock.
    Those that are ``done`` were fitted before, in ``small``;
    ``after`` each one it is told the network so far and all that are done, by which fitting can be taken up again.
    """
    small = small.copy()
    small.module.eval()
    dense.module.eval()
    batches = _first(calibration, SAMPLES)
    if sum(len(batch[0]) for batch in batches) < JUDGE:
        return small, ()
    targets = {name: target for name in small.graph.by_name if (target := _target(small, dense, kept, name))}
    together = _calls(small, targets)
    left = {name: calls for name, calls in together.items() if name not in done}
    less = {target.less for calls in left.values() for target in calls.values() if target.less}
    given = _Side(small.module, batches, less)
    wanted = _Side(dense.module, batches, {target.node for calls in left.values() for target in calls.values()})
    fits, fitted = list[Fit](), list(done)
    for name, calls in sorted(left.items(), key=lambda item: item[1][item[0]].turn):
        if until is not None and time.monotonic() >= until:
            break
        fits.append(_fitted(small, name, calls, given, wanted, [len(batch[0]) for batch in batches]))
        if len(calls) > 1:  # what was computed behind its other calls was so with other weights
            given = _Side(small.module, batches, less)
        for target in calls.values():
            wanted.drop(target.node)
        fitted.append(name)
        progress(len(fitted) / len(together))
        after(small, fitted)
    return small, tuple(fits)


def _calls(small: Network, targets: Mapping[str, _Target]) -> dict[str, dict[str, _Target]]:
    """The layers that are fitted, each with its calls and what each of these is to make.

    Left out are those that have their weights in common but not their BatchNorms or biases, and those with a call of
    which it is not known what it is to make.
    """
    calls = {name: {name: target} for name, target in targets.items()}
    parted = {name for name in targets if shares_with(small.submodule(name)) is not None}
    for name in parted:
        del calls[name]
    for names in small.graph.shared:
        if parted.issuperset(names) and len({id(small.submodule(name).bias) for name in names}) == 1:
            calls[names[0]] = {name: targets[name] for name in names}
    return calls


@torch.no_grad()
def irreplaceable(network: Network, calibration: Sequence[Batch]) -> dict[str, Tensor]:
    """For each channel group that can be cut, what its readers lose with each channel when the others make up for it.

    Shape (channels,), greater is more important: of every layer that mixes the group's channels the Hessian score
    (:func:`edgesdk.techniques.importance.hessian`) of its inputs about their means, over the variance of its output,
    added up. It ranks channels for a network that is refitted afterwards.
    """
    network.module.eval()
    scores = {group.name: torch.zeros(group.size) for group in network.graph.groups if group.fixed is None}
    side = _Side(network.module, _first(calibration, SAMPLES), set())
    generator = torch.Generator().manual_seed(0)
    for layer in network.graph.layers:
        call = _call(network.module, layer.name) if layer.kind in WEIGHTED else network.node(layer.name)
        if layer.reads not in scores or layer.depthwise or call is None or not call.all_input_nodes:
            continue
        weight, place = _weight_read(network, layer, call), network.along(call.all_input_nodes[0], layer.reads)
        if weight is None or weight.shape[1] > LARGEST or place is None:
            continue
        inputs, (axis, of) = side.of(call.all_input_nodes[0].name), place
        moments = Moments.empty(1, weight.shape[1], 0)  # of the inputs alone
        for x in inputs:
            if layer.kind in WEIGHTED:
                positions = _positions(layer, sum(map(len, inputs)), generator)
                rows = window_rows(network.submodule(layer.name), x, positions)
            else:
                rows = x.movedim(axis, -1).flatten(0, -2)[None, :ROWS].double()
            moments.add(rows, rows[..., :0])
        covariance = moments.centred[0][0]
        variance = float(((weight @ covariance) * weight).sum())
        if variance > 0:
            of = _runs(of)
            matrix = hessian(weight, covariance, weight.shape[1] // len(of))
            scores[layer.reads].index_add_(0, of[of >= 0], (matrix / variance).float()[of >= 0])
    return scores


def _weight_read(network: Network, layer: Layer, call: fx.Node) -> Tensor | None:
    """The weight (n, k) by which ``layer`` reads its input: of a layer that is no module that of its first parameter
    with an axis for the channels."""
    if layer.kind in WEIGHTED:
        return None if layer.groups > 1 else _folded(network.submodule(layer.name), _norm(network, layer.name))[0][0]
    if network.channels is None or call.name not in network.channels.read:
        return None
    read = network.channels.read[call.name][1]
    for node in call.all_input_nodes[1:]:
        for axis, numbers in network.channels.parts.get(str(node.target), {}).items():
            weight = network.module.get_parameter(str(node.target)).detach()
            if weight.dim() > 1 and torch.equal(numbers, read):
                return weight.movedim(axis, -1).flatten(0, -2).double()
    return None


def _runs(of: Tensor) -> Tensor:
    """The channel of each run of places, where all have as many in a row, as behind a flattened image; else of each."""
    values, counts = torch.unique_consecutive(of, return_counts=True)
    return values if bool((counts == counts[0]).all()) else of


@dataclass(frozen=True)
class _Target:
    """What a layer's output is to be: that of the dense network's ``node``, less a value of the small one.

    Of it the ``places`` along an axis are left, all where it is ``None``. ``turn`` is the place in the small network's
    order at which the layer is fitted.
    """

    node: str
    places: tuple[int, Tensor] | None
    less: str | None
    turn: int


def _target(small: Network, dense: Network, kept: Mapping[str, Sequence[int]], name: str) -> _Target | None:
    """What ``name`` is fitted to; ``None`` where it stays as it is."""
    layer, whole, call = small.graph.by_name[name], find_whole(small, dense, name), _call(small.module, name)
    if layer.kind not in WEIGHTED or whole is None or call is None:
        return None
    places = find_places(dense, whole, kept)
    rows = len(places[1]) if places is not None and whole.writes in kept else whole.outputs
    if layer.columns > LARGEST or layer.outputs != rows:
        return None
    order = [n.name for n in small.module.graph.nodes]
    joined = _joined(small, dense, layer)
    if joined is not None:  # nothing but the addition reads it, so that it can wait for the other input
        return _Target(joined[0], places, joined[1], order.index(joined[0]))
    site = dense.sites[whole.name]
    end = _call(dense.module, site.norm or str(site.module))
    return None if end is None else _Target(end.name, places, None, order.index(call.name))


def find_places(dense: Network, layer: Layer, kept: Mapping[str, Sequence[int]]) -> tuple[int, Tensor] | None:
    """The axis of the output of the dense network's ``layer`` on which channels lie, and where on it those that are
    left; ``None`` for all of it. It is no axis of the layer's own where it mixes something else, such as tokens."""
    own = layer.writes in kept
    found: tuple[int, Tensor] | None = None
    for group in kept:
        if group != layer.writes and (own or dense.graph.group_by_name[group].heads):
            continue
        place = dense.along(dense.node(layer.name), group)
        if place is not None:
            stays = (place[1] < 0) | torch.isin(place[1], torch.tensor(list(kept[group])))
            found = place[0], stays if found is None else stays & found[1]
    return None if found is None else (found[0], torch.nonzero(found[1]).flatten())


def find_whole(small: Network, dense: Network, name: str) -> Layer | None:
    """The dense network's layer whose output ``name`` makes: of its own name, or that of which it is the last part."""
    if name in dense.sites:
        return dense.graph.by_name[name]
    path, _, part = name.rpartition(".")
    return dense.graph.by_name[path] if path in dense.sites and f"{path}.{int(part) + 1}" not in small.sites else None


def _joined(small: Network, dense: Network, layer: Layer) -> tuple[str, str] | None:
    """The addition that alone reads ``layer``, and its other input; ``None`` where a later layer makes up for that."""
    end = small.node(layer.name)
    if layer.activation or len(end.users) != 1:
        return None
    reader = next(iter(end.users))
    if reader.target is not torch.ops.aten.add.Tensor or reader.kwargs or len(reader.all_input_nodes) != 2:
        return None
    if all(node.name != reader.name for node in dense.module.graph.nodes):
        return None
    other = next(node for node in reader.all_input_nodes if node is not end)
    beside = next((name for name, site in small.sites.items() if site.output == other.name and site.module), None)
    if beside is not None and len(other.users) == 1 and not small.graph.by_name[beside].activation:
        both = [name for name in small.graph.by_name if name in (beside, layer.name)]
        if both[-1] != layer.name:
            return None
    return reader.name, other.name


def _call(module: fx.GraphModule, path: str) -> fx.Node | None:
    """The one call of the submodule ``path``."""
    calls = [n for n in module.graph.nodes if n.op == "call_module" and n.target == path]
    return calls[0] if len(calls) == 1 else None


def _norm(network: Network, layer: str) -> Any:
    path = network.sites[layer].norm
    return None if path is None else network.module.get_submodule(path)


def _fitted(
    small: Network, name: str, calls: Mapping[str, _Target], given: _Side, wanted: _Side, counts: Sequence[int]
) -> Fit:
    """Set the weights of layer ``name`` by least squares, where that makes the error of its ``calls`` on judging
    samples less; batches have ``counts`` of these."""
    layer, norm = small.submodule(name), _norm(small, name)
    weight, bias = _folded(layer, norm)
    fit, judge = (Moments.empty(len(weight), weight.shape[2], weight.shape[1], weight.device) for _ in range(2))
    generator = torch.Generator().manual_seed(0)
    for path, target in calls.items():
        part, call = small.submodule(path), _call(small.module, path)
        assert call is not None
        inputs, outputs = given.of(call.all_input_nodes[0].name), wanted.of(target.node)
        others = given.of(target.less) if target.less else [None] * len(inputs)
        seen = 0
        for x, y, other, count in zip(inputs, outputs, others, counts, strict=True):
            if target.places is not None:
                axis, left = target.places
                y = y.index_select(axis, left.to(y.device))
            if other is not None:
                y = y - other
            if (axis := _sample_axis(part, x, count)) and x.dim() == y.dim():
                x, y = x.movedim(axis, 0), y.movedim(axis, 0)
            positions = _positions(small.graph.by_name[path], sum(map(len, inputs)), generator)
            judging = (torch.arange(len(x)) + seen) % JUDGE == JUDGE - 1
            seen += len(x)
            for moments, chosen in ((fit, ~judging), (judge, judging)):
                moments.add(window_rows(part, x[chosen], positions), output_rows(part, y[chosen], positions))
    if not fit.count or not judge.count:  # what it reads is no row for each sample
        return Fit(name, 0.0, 0.0, None)
    scale = max(float((judge.yy - judge.y.square() / judge.count).sum()), 1e-12)
    before = float(judge.error(weight, bias).sum())
    least, damping = before, None
    for tried in DAMPINGS if before > EXACT * scale else ():
        error = float(judge.error(*least_squares(fit, weight, bias, tried)).sum())
        if error < least:
            least, damping = error, tried
    if damping is not None:
        every = fit.plus(judge)
        _set(layer, norm, *least_squares(every, weight, bias, damping), every)
    return Fit(name, before / scale, least / scale, damping)


def _sample_axis(layer: nn.Module, x: Tensor, count: int) -> int:
    """The axis of ``count`` samples in what ``layer`` reads: the first, or that behind steps that come before it, as in
    ``nn.MultiheadAttention`` and recurrent networks."""
    if not isinstance(layer, nn.Linear) or len(x) % count == 0:
        return 0
    return next((axis for axis in range(1, x.dim() - 1) if x.shape[axis] == count), 0)


def _positions(layer: Layer, samples: int, generator: torch.Generator) -> Tensor | None:
    """Places in the output of ``layer`` of which ``samples`` times as many are about ``ROWS``; ``None`` for all."""
    places = layer.elements // layer.flat_shape[0]
    each = max(1, ROWS // samples)
    return torch.randperm(places, generator=generator)[:each] if places > each else None


def _folded(layer: nn.Module, norm: Any) -> tuple[Tensor, Tensor | None]:
    """The weight of ``layer`` as (groups, n, k) in double precision and its bias as (groups, n), ``norm`` in them."""
    weight = weight_rows(layer).double()
    bias: Any = layer.bias
    if norm is None:
        return weight, None if bias is None else bias.detach().double().reshape(weight.shape[:2])
    scale = norm.weight.detach().double() / (norm.running_var.double() + norm.eps).sqrt()
    offset = norm.bias.detach().double() + scale * (
        (0.0 if bias is None else bias.double()) - norm.running_mean.double()
    )
    return weight * scale.reshape(*weight.shape[:2], 1), offset.reshape(weight.shape[:2])


def _set(layer: Any, norm: Any, weight: Tensor, bias: Tensor | None, moments: Moments) -> None:
    """Make ``layer`` and ``norm`` compute ``weight`` and ``bias``.

    With a BatchNorm, each channel's weights keep their norm, on which the pace of training depends, and the statistics
    are those of the new outputs.
    """
    if norm is None:
        layer.weight.copy_(as_stored(layer, weight))
        if bias is not None:
            layer.bias.copy_(bias.flatten())
        return
    assert bias is not None
    length = weight.norm(dim=2)
    stretch = torch.where(length > 0, weight_rows(layer).double().norm(dim=2) / length, 1.0)
    covariance, _ = moments.centred
    variance = ((weight @ covariance) * weight).sum(2) / moments.count * stretch.square()
    mean = (weight @ (moments.x / moments.count)[..., None])[..., 0]
    layer.weight.copy_(as_stored(layer, weight * stretch[..., None]))
    if layer.bias is not None:
        layer.bias.zero_()
    norm.running_mean.copy_((mean * stretch).flatten())
    norm.running_var.copy_(variance.flatten())
    norm.weight.copy_(((variance + norm.eps).sqrt() / stretch).flatten())
    norm.bias.copy_((mean + bias).flatten())


def _first(calibration: Sequence[Batch], most: int) -> list[list[Tensor]]:
    """The tensors of the first ``most`` samples, in their batches."""
    batches: list[list[Tensor]] = []
    for x in calibration:
        left = most - sum(len(batch[0]) for batch in batches)
        if left > 0:
            batches.append([t[:left] for t in tensors(x)])
    return batches


class _Side:
    """A network's values on all batches, each computed when it is asked for.

    A value goes when all that read it are computed, unless it is ``wanted``.
    """

    def __init__(self, module: fx.GraphModule, batches: list[list[Tensor]], wanted: set[str]) -> None:
        self.interpreter = fx.Interpreter(module, garbage_collect_values=False)
        self.by_name = {n.name: n for n in module.graph.nodes}
        self.readers = {n: len(n.users) for n in module.graph.nodes}  # that are not computed yet
        placeholders = [n for n in module.graph.nodes if n.op == "placeholder"]
        self.values: list[dict[fx.Node, Any]] = [dict(zip(placeholders, batch, strict=True)) for batch in batches]
        self.computed = set(placeholders)
        self.wanted = wanted

    def of(self, name: str) -> list[Any]:
        """The value of the node ``name`` in each batch."""
        node = self.by_name[name]
        self._compute(node)
        return [values[node] for values in self.values]

    def drop(self, name: str) -> None:
        """The value of ``name`` is wanted no more."""
        self.wanted.discard(name)
        self._forget(self.by_name[name])

    def _compute(self, wanted: fx.Node) -> None:
        waiting = [wanted]
        while waiting:
            node = waiting[-1]
            missing = [n for n in node.all_input_nodes if n not in self.computed]
            waiting += missing
            if missing:
                continue
            waiting.pop()
            if node in self.computed:
                continue
            for values in self.values:
                self.interpreter.env = values
                values[node] = self.interpreter.run_node(node)
            self.computed.add(node)
            for read in node.all_input_nodes:
                self.readers[read] -= 1
                self._forget(read)

    def _forget(self, node: fx.Node) -> None:
        if not self.readers[node] and node.name not in self.wanted:
            for values in self.values:
                values.pop(node, None)
