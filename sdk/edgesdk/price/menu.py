"""(Graph, measured latencies, accuracy losses) -> Menu: every choice of every layer with its price."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, product
from math import hypot

from edgesdk.core.budget import Budget
from edgesdk.core.graph import OTHER, TRANSPOSED, WEIGHTED, Graph, Layer
from edgesdk.core.menu import BranchMenu, Change, Choice, GroupMenu, LayerMenu, Menu
from edgesdk.core.plan import FP32, INT8, Option, Rejected
from edgesdk.price import operators as ops
from edgesdk.price import stored
from edgesdk.price.account import Account
from edgesdk.price.correct import Correction
from edgesdk.price.forms import fits, forms
from edgesdk.price.memory.held import Held
from edgesdk.price.operator import CHANGES, Operator
from edgesdk.price.planned import layer_parts, weight_shape
from edgesdk.price.prices import Prices


@dataclass(frozen=True)
class Losses:
    """Prices in accuracy, from calibration data: by group and width, by layer and option, by branch.

    What has no price is nothing to choose: to look it up raises ``KeyError``.
    """

    widths: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    options: Mapping[str, Mapping[Option, float]] = field(default_factory=dict)
    branches: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def as_it_is(cls, graph: Graph) -> Losses:
        """What is known of ``graph`` without any measurement: nothing is lost as it is."""
        widths = {group.name: {group.size: 0.0} for group in graph.groups if group.fixed is None}
        return cls(widths, {layer.name: {Option(): 0.0} for layer in graph.layers})

    def of_option(self, layer: str, option: Option) -> float:
        """What it costs to carry ``layer`` out so."""
        if option not in self.options.get(layer, {}):
            raise KeyError(f"no price in accuracy of {layer} in {option}")
        return self.options[layer][option]

    def of_width(self, group: str, kept: int) -> float:
        """What it costs to keep so many channels of ``group``."""
        if kept not in self.widths.get(group, {}):
            raise KeyError(f"no price in accuracy of {kept} channels of {group}")
        return self.widths[group][kept]

    def never_less(self) -> Losses:
        """The same where fewer channels never cost less than more of them."""
        widths: dict[str, dict[int, float]] = {}
        for group, losses in self.widths.items():
            wide_first = sorted(losses, reverse=True)
            most = accumulate((losses[kept] for kept in wide_first), max)
            widths[group] = dict(zip(wide_first, most, strict=True))
        return replace(self, widths=widths)


def options(layer: Layer, weight_bits: Iterable[int] = (8,), candidates: Iterable[str] = ()) -> tuple[Option, ...]:
    """Every way to carry ``layer`` out: precisions that it can run in, times its forms.

    These are the usual ones, and those that ``candidates`` names. A layer that shares its weights has no other form:
    what it would be fitted to differs from call to call.
    """
    options = []
    whole = layer.kind in WEIGHTED and (layer.fixed is not None or layer.shares is not None)
    others = () if whole else forms(layer, candidates)
    for precision in (FP32, INT8):
        packs = layer.kind in WEIGHTED and layer.kind != TRANSPOSED  # of which no kernel takes fewer bits than eight
        bits = (32,) if precision == FP32 else tuple(weight_bits) if packs else (8,)
        for form in (None, *others):
            if precision in ops.precisions(layer, form):
                options += [Option(precision, b, form) for b in bits]
    return tuple(options)


def _can_be_integer(layer: Layer, space: Mapping[str, tuple[Option, ...]]) -> bool:
    """Whether its output can be on an integer grid: only for such tensors is a change of precision priced."""
    return bool(layer.shape and layer.inputs) and (
        layer.kind != OTHER or any(option.precision == INT8 for option in space[layer.name])
    )


def full_width(graph: Graph, space: Mapping[str, tuple[Option, ...]]) -> list[Operator]:
    """The operators of every option at full width, and of every change of precision: what is priced first.

    The layers as they are come first, then precisions, then other forms: whoever stops in between has a menu.
    """
    ways = [(layer, option) for layer in graph.layers for option in space[layer.name]]
    ways.sort(key=lambda way: (way[1].form is not None, way[1] != Option()))
    each = [ops.operators(layer, graph, option, None, None) for layer, option in ways]
    changes = [
        ops.change(way, *_tensor(layer, graph, None))
        for layer in graph.layers
        if _can_be_integer(layer, space)
        for way in CHANGES
    ]
    changes += [
        ops.change("quantize", tensor.shape, tensor.shape[0])
        for tensor in graph.inputs
        if tensor.dtype == "float32" and tensor.shape
    ]
    plain = sum(option == Option() for _, option in ways)
    return [op for part in (*each[:plain], changes, *each[plain:]) for op in part]


def all_widths(graph: Graph, space: Mapping[str, tuple[Option, ...]]) -> list[Operator]:
    """The operators of every option at every width of its input and output, from coarse grids of widths to fine."""
    leveled = [(0, op) for op in full_width(graph, space)]
    for layer in graph.layers:
        fine = _levels(layer.reads, graph), _levels(layer.writes, graph)
        for reads, writes in _pairs(layer, graph):
            level = max(fine[0][reads], fine[1][writes])
            for option in space[layer.name]:
                if _applies(layer, graph, option, reads, writes):
                    leveled += [(level, op) for op in ops.operators(layer, graph, option, reads, writes)]
        if layer.writes and _can_be_integer(layer, space):
            for kept, level in fine[1].items():
                leveled += [(level, ops.change(way, *_tensor(layer, graph, kept))) for way in CHANGES]
    leveled.sort(key=lambda pair: pair[0])
    return list({op.key: op for _, op in leveled}.values())


def keep_priced(graph: Graph, space: Mapping[str, tuple[Option, ...]], table: Prices) -> dict[str, tuple[Option, ...]]:
    """``space`` without the options that have no price at full width.

    Where a layer as it is has none, nothing can be compared with anything: every layer stays as it is.
    """

    def has_all(layer: Layer, option: Option) -> bool:
        return all(table.has_price(op) for op in ops.operators(layer, graph, option, None, None))

    if not all(has_all(layer, Option()) for layer in graph.layers):
        return {layer.name: (Option(),) for layer in graph.layers}
    priced = {
        layer.name: tuple(o for o in space[layer.name] if o == Option() or has_all(layer, o)) for layer in graph.layers
    }
    for names in graph.shared:
        common = set[Option].intersection(*(set(priced[name]) for name in names))
        priced |= {name: tuple(o for o in priced[name] if o in common) for name in names}
    return priced


def drop_slower(
    graph: Graph, space: Mapping[str, tuple[Option, ...]], table: Prices, budget: Budget
) -> tuple[dict[str, tuple[Option, ...]], tuple[Rejected, ...]]:
    """``space`` without the options that this device runs slower than what they replace, and those options.

    Another form replaces the layer as it is, at the same precision where it can have that, and must be faster by more
    than prices are sure of. An integer layer replaces the float one between integer neighbours, that is with the
    changes of precision around it, and must be slower by more than that to go. Where ``budget`` bounds size or memory,
    an integer layer stays on the menu however slow, and one that is stored smaller: it may be what fits. Where it does
    and does not bound latency, every option stays.
    """
    smaller_wanted = budget.size_bytes is not None or budget.peak_memory_bytes is not None
    slower_allowed = smaller_wanted and budget.latency_ms is None and budget.latency_ratio is None
    kept: dict[str, tuple[Option, ...]] = {}
    rejected: list[Rejected] = []
    for layer in graph.layers:
        plain = _latency(layer, graph, Option(), None, None, table)
        around = plain + _changes_around(layer, graph, space, table)
        stays: list[Option] = []
        for option in space[layer.name]:
            runs_as = ops.operators(layer, graph, option, None, None)
            own, error = _priced(option, runs_as, ops.operators(layer, graph, Option(), None, None), table)
            other = plain if option.precision == FP32 else around
            if option.form is not None and replace(option, form=None) in space[layer.name]:
                other = min(other, _latency(layer, graph, replace(option, form=None), None, None, table))
            smaller = option.form is None or option.form.stored
            faster = own + error < other if option.form is not None else own <= other + error
            if option == Option() or faster or slower_allowed or (smaller_wanted and smaller):
                stays.append(option)
            else:
                rejected.append(Rejected(layer.name, str(option), own, other))
        kept[layer.name] = tuple(stays)
    for names in graph.shared:  # one option is for all of them: what a single one gains by is looked at together
        some = set[Option].union(*(set(kept[name]) for name in names))
        kept |= {name: tuple(o for o in space[name] if o in some) for name in names}
        wanted = {(name, str(option)) for name in names for option in some}
        rejected = [r for r in rejected if (r.layer, r.choice) not in wanted]
    return kept, tuple(rejected)


def _changes_around(layer: Layer, graph: Graph, space: Mapping[str, tuple[Option, ...]], table: Prices) -> float:
    """What it takes to leave and enter integer precision around ``layer``, in ms."""
    if not _can_be_integer(layer, space):
        return 0.0
    total = table.latency_ms(ops.change("quantize", *_tensor(layer, graph, None)))
    before = graph.by_name.get(layer.inputs[0])
    if before is not None and _can_be_integer(before, space):
        total += table.latency_ms(ops.change("dequantize", *_tensor(before, graph, None)))
    return total


@dataclass(frozen=True)
class Way:
    """A layer carried out with an ``option`` at some widths, before it has a price: what it runs as, and its bytes.

    ``plain`` is what it runs as at those widths where it is left as it is.
    """

    option: Option
    reads: int | None
    writes: int | None
    operators: tuple[Operator, ...]
    plain: tuple[Operator, ...]
    held: Held
    size_bytes: float


def list_ways(graph: Graph, space: Mapping[str, tuple[Option, ...]], account: Account) -> dict[str, tuple[Way, ...]]:
    """Every way to carry each layer out, at every width."""
    return {layer.name: tuple(_ways(layer, graph, space[layer.name], account)) for layer in graph.layers}


def _ways(layer: Layer, graph: Graph, options: Sequence[Option], account: Account) -> Iterable[Way]:
    for reads, writes in _pairs(layer, graph):
        plain = ops.operators(layer, graph, Option(), reads, writes)
        for option in options:
            if _applies(layer, graph, option, reads, writes):
                runs_as = plain if option == Option() else ops.operators(layer, graph, option, reads, writes)
                parts = layer_parts(layer, graph, option, reads, writes)
                held = account.held(parts, option)
                size = account.layer_bytes(parts, option, layer.name in graph.repeats)
                yield Way(option, reads, writes, runs_as, plain, held, size)


def menu(
    graph: Graph,
    space: Mapping[str, tuple[Option, ...]],
    table: Prices,
    losses: Losses,
    correction: Correction,
    rejected: tuple[Rejected, ...] = (),
    account: Account = Account.of("onnxruntime"),  # noqa: B008  it is frozen
    ways: Mapping[str, Sequence[Way]] | None = None,
) -> Menu:
    """Every choice with its price in ms, bytes and accuracy; latencies scaled as whole networks were measured.

    Bytes are the sums that come nearest to the ``account`` of whole networks. ``ways`` are those of ``space``, where
    they are listed already: no price changes them.
    """
    ways = ways or list_ways(graph, space, account)
    inputs, spare, kernels = account.fixed(graph)
    branch_of = {name: branch for branch in graph.branches for name in branch.layers if branch.name in losses.branches}
    joins = {branch.join: branch for branch in graph.branches if branch.name in losses.branches}
    widths = _priced_widths(graph, space, table, losses)
    layers = []
    for layer in graph.layers:
        choices = []
        own = [
            way
            for way in ways[layer.name]
            if all(g is None or kept in widths[g] for g, kept in ((layer.reads, way.reads), (layer.writes, way.writes)))
        ]
        for way, took in _surely(own, [_careful(layer, graph, way, table) for way in own], table):
            choice = Choice(
                way.option,
                took * correction.scale(way.option.precision),
                losses.of_option(layer.name, way.option),
                way.reads, way.writes, way.size_bytes * correction.size_scale,
                way.held.resident * correction.memory_scale, way.held.output * correction.memory_scale,
                way.held.scratch * correction.memory_scale, kernels=way.held.kernels,
            )  # fmt: skip
            choices.append(choice)
            if layer.name in joins:
                choices.append(replace(choice, latency_ms=0.0, loss=0.0, scratch_bytes=0.0, skips=True))
        branch = branch_of.get(layer.name)
        layers.append(LayerMenu(layer.name, tuple(choices), layer.reads, layer.writes, branch.name if branch else None))
    groups = tuple(
        GroupMenu(group.name, {kept: losses.of_width(group.name, kept) for kept in widths[group.name]})
        for group in graph.groups
        if group.fixed is None
    )
    return Menu(
        layers=tuple(layers),
        groups=groups,
        branches=tuple(BranchMenu(b.name, b.join, losses.branches[b.name]) for b in joins.values()),
        changes=tuple(_changes(graph, space, table, correction, account.quantize_bytes, widths)),
        live=graph.live,
        shared=graph.shared,
        latency_ms=correction.latency_ms,
        memory_bytes=correction.memory_bytes + inputs * correction.memory_scale,
        size_bytes=correction.size_bytes + account.fixed_bytes * correction.size_scale,
        rejected=rejected,
        spare_bytes=spare * correction.memory_scale,
        kernels={name: bytes_ * correction.memory_scale for name, bytes_ in kernels.items()},
    )


def _widths(group: str, graph: Graph) -> tuple[int, ...]:
    entry = graph.group_by_name[group]
    return ops.widths(entry.size, entry.step)


def _levels(group: str | None, graph: Graph) -> Mapping[int | None, int]:
    """How fine a grid has each width of ``group``, :func:`ops.levels`; of no group, nothing."""
    if group is None:
        return {None: 0}
    channels = graph.group_by_name[group]
    return {**ops.levels(channels.size, channels.step)}


def _priced_widths(
    graph: Graph, space: Mapping[str, tuple[Option, ...]], table: Prices, losses: Losses
) -> dict[str, tuple[int, ...]]:
    """The widths of each group with a price in accuracy and, of every change of precision there, one in ms."""
    changed: dict[str, list[Layer]] = {}
    for layer in graph.layers:
        if layer.writes and _can_be_integer(layer, space):
            changed.setdefault(layer.writes, []).append(layer)

    def has_changes(group: str, kept: int) -> bool:
        tensors = [_tensor(layer, graph, kept) for layer in changed.get(group, ())]
        return all(table.has_price(ops.change(way, *tensor)) for tensor in tensors for way in CHANGES)

    return {
        group.name: tuple(
            kept
            for kept in _widths(group.name, graph)
            if kept == group.size or (kept in losses.widths.get(group.name, {}) and has_changes(group.name, kept))
        )
        for group in graph.groups
    }


def _pairs(layer: Layer, graph: Graph) -> Iterable[tuple[int | None, int | None]]:
    reads = _widths(layer.reads, graph) if layer.reads else (None,)
    if layer.writes and layer.writes == layer.reads:
        return [(kept, kept) for kept in reads]
    return product(reads, _widths(layer.writes, graph) if layer.writes else (None,))


def _applies(layer: Layer, graph: Graph, option: Option, reads: int | None, writes: int | None) -> bool:
    if option.form is not None and option.form.stored:
        return stored.fits(option.form, weight_shape(layer, graph, reads, writes))
    return option.form is None or fits(option.form, *ops.channels(layer, graph, reads, writes))


def _latency(layer: Layer, graph: Graph, option: Option, reads: int | None, writes: int | None, table: Prices) -> float:
    return sum(table.latency_ms(op) for op in ops.operators(layer, graph, option, reads, writes))


def _priced(
    option: Option, operators: Sequence[Operator], plain: Sequence[Operator], table: Prices
) -> tuple[float, float]:
    """The latency of an option, and the standard error of what it takes more or less than the layer as it is."""
    error = 0.0 if option == Option() else hypot(*map(table.error_ms, {*operators, *plain}))
    return sum(map(table.latency_ms, operators)), error


def _careful(layer: Layer, graph: Graph, way: Way, table: Prices) -> float | None:
    """The latency that the search goes by: an option is taken at its standard error above its price.

    Of many options whose prices are noisy the search would buy those whose noise is lucky. ``None`` where a part of it
    has no price, unless it is the layer as it is.
    """
    ends = (layer.reads, way.reads), (layer.writes, way.writes)
    is_plain = way.option == Option() and all(g is None or kept == graph.group_by_name[g].size for g, kept in ends)
    if not is_plain and not all(map(table.has_price, way.operators)):
        return None
    return sum(_priced(way.option, way.operators, way.plain, table))


def _surely(ways: Sequence[Way], taken: Sequence[float | None], table: Prices) -> Iterable[tuple[Way, float]]:
    """Those of ``ways``, of one layer, that have a price, at what they take surely.

    A narrower layer that is faster than the same at its widest input, output or both by less than the standard error of
    that is taken for no faster: where nothing is won the wider network is the better one.
    """
    priced = [(way, took) for way, took in zip(ways, taken, strict=True) if took is not None]
    at = {
        (way.option, way.reads, way.writes): (took, hypot(*map(table.error_ms, way.operators))) for way, took in priced
    }
    widest: dict[Option, tuple[int, int]] = {}
    for way, _ in priced:
        reads, writes = widest.get(way.option, (0, 0))
        widest[way.option] = max(reads, way.reads or 0), max(writes, way.writes or 0)
    for way, took in priced:
        reads, writes = (
            most if own is not None else None
            for most, own in zip(widest[way.option], (way.reads, way.writes), strict=True)
        )
        error = at[way.option, way.reads, way.writes][1]
        wider = (at.get((way.option, *place)) for place in ((reads, writes), (reads, way.writes), (way.reads, writes)))
        unsure = (other for other, its in filter(None, wider) if 0 < other - took < hypot(error, its))
        yield way, max(took, *unsure, took)


def _tensor(layer: Layer, graph: Graph, kept: int | None) -> tuple[tuple[int, ...], int]:
    """A layer's output as ``ops.change`` takes it: its shape with channels first, and its channels."""
    shape = layer.flat_shape
    channels = shape[0]
    if layer.writes and kept is not None:
        channels = channels * kept // graph.group_by_name[layer.writes].size
    return shape, channels


def _changes(
    graph: Graph, space: Mapping[str, tuple[Option, ...]], table: Prices, correction: Correction, size: float,
    widths: Mapping[str, Sequence[int]],
) -> Iterable[Change]:  # fmt: skip
    size *= correction.size_scale
    for tensor in graph.inputs:
        if tensor.dtype == "float32" and tensor.shape and graph.readers[tensor.name]:
            price = table.latency_ms(ops.change("quantize", tensor.shape, tensor.shape[0]))
            yield Change(
                tensor.name,
                graph.readers[tensor.name],
                None,
                {None: price * correction.scale(INT8)},
                {None: 0.0},
                size_bytes=size,
            )
    for layer in graph.layers:
        if not _can_be_integer(layer, space):
            continue
        every = widths[layer.writes] if layer.writes else (None,)
        quantize_ms, dequantize_ms = (
            {
                kept: table.latency_ms(ops.change(way, *_tensor(layer, graph, kept))) * correction.scale(INT8)
                for kept in every
            }
            for way in CHANGES
        )
        is_output = layer.name in graph.outputs
        yield Change(layer.name, graph.readers[layer.name], layer.writes, quantize_ms, dequantize_ms, is_output, size)
