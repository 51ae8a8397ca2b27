"""Menus made up from a seed: small ones that can be enumerated, and deep ones like those of a real network."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product
from random import Random

from edgesdk.core.menu import BranchMenu, Change, Choice, GroupMenu, LayerMenu, Menu
from edgesdk.core.plan import FP32, INT8, Form, Option

PRECISIONS = (Option(FP32), Option(INT8, 8))
KERNELS = ("one kernel", "another", "a third")
HALF, QUARTER = Form("svd", (32,)), Form("svd", (16,))
# An option of a convolution with what it makes of latency and of size, and with its loss by the layer's sensitivity.
OPTIONS = (
    (Option(FP32), 1.0, 1.0, 0.0),
    (Option(INT8, 8), 0.45, 0.25, 0.1),
    (Option(FP32, 32, HALF), 0.62, 0.55, 0.4),
    (Option(INT8, 4), 0.45, 0.13, 0.6),
    (Option(INT8, 8, HALF), 0.35, 0.14, 0.55),
    (Option(FP32, 32, QUARTER), 0.4, 0.3, 1.1),
)


def random_menu(seed: int) -> Menu:
    """A stem, perhaps a depthwise layer, perhaps a residual block that may be left out, and a head; random prices.

    Some groups have one width, some choices do not exist, some are of a branch that is not there, and some readers do
    not know the group of what they read. At most some thousand assignments, and one at least.
    """
    rng = Random(seed)
    groups: dict[str, tuple[int, ...]] = {
        name: tuple(sorted(rng.sample((4, 8, 12), rng.choice((1, 2, 2))))) for name in ("outer", "inner")
    }
    shapes: list[tuple[str, str | None, str | None, str | None]] = [("stem", None, "outer", None)]
    edges: dict[str, tuple[str, ...]] = {"image": ("stem",)}
    if rng.random() < 0.4:
        shapes.append(("depthwise", "outer", "outer", None))
        edges["stem"] = ("depthwise",)
    branch = None
    if rng.random() < 0.8:
        branch = "block" if rng.random() < 0.8 else None
        edges |= {shapes[-1][0]: ("one", "join"), "one": ("two",), "two": ("join",)}
        shapes += [("one", "outer", "inner", branch), ("two", "inner", "outer", branch)]
        shapes += [("join", "outer", "outer", None)]
    edges |= {shapes[-1][0]: ("head",), "head": ()}
    shapes.append(("head", "outer" if rng.random() < 0.7 else None, None, None))
    layers = tuple(
        LayerMenu(name, _random_choices(rng, name, reads, writes, groups), reads, writes, branch)
        for name, reads, writes, branch in shapes
    )
    group_of = {layer.name: layer.writes for layer in layers} | {"image": None}
    changes = []
    for tensor, readers in edges.items():
        if rng.random() < 0.8:
            widths = groups[group] if (group := group_of[tensor]) else (None,)
            quantize, dequantize = ({width: _amount(rng) for width in widths} for _ in range(2))
            size = 1000 * _amount(rng)
            changes.append(Change(tensor, readers, group, quantize, dequantize, tensor == "head", size))
    names = [layer.name for layer in layers]
    shared = tuple(sorted(rng.sample([name for name in names if name != "join"], 2)))
    can_share = set[Option].intersection(*(_everywhere(layer) for layer in layers if layer.name in shared))
    return Menu(
        layers=layers,
        groups=tuple(GroupMenu(name, {width: _amount(rng) for width in widths}) for name, widths in groups.items()),
        branches=(BranchMenu("block", "join", _amount(rng)),) if branch else (),
        changes=tuple(changes),
        live={name: tuple(dict.fromkeys((rng.choice(names), name))) for name in names},
        latency_ms=_amount(rng),
        memory_bytes=1000 * _amount(rng),
        size_bytes=1000 * _amount(rng),
        spare_bytes=1000 * _amount(rng),
        kernels={name: 1000 * _amount(rng) for name in KERNELS},
        shared=(shared,) if can_share else (),
    )


def _everywhere(layer: LayerMenu) -> set[Option]:
    """The options that a layer has whatever the widths and the branches."""
    places: dict[tuple[int | None, int | None, bool], set[Option]] = {}
    for choice in layer.choices:
        places.setdefault((choice.reads, choice.writes, choice.skips), set()).add(choice.option)
    return set[Option].intersection(*places.values())


def _amount(rng: Random) -> float:
    return rng.choice((0.0, 1.0, 2.0, rng.uniform(0.01, 3.0)))


def _random_choices(
    rng: Random, name: str, reads: str | None, writes: str | None, groups: dict[str, tuple[int, ...]]
) -> tuple[Choice, ...]:
    choices = []
    for read, write in product(groups[reads] if reads else (None,), groups[writes] if writes else (None,)):
        for option in rng.choices(PRECISIONS, k=rng.choice((1, 2, 2))):
            for skips in (False, True) if name == "join" else (False,):
                size, memory, output, scratch = (1000 * _amount(rng) for _ in range(4))
                figures = _amount(rng), _amount(rng), read, write, size, memory, output, scratch
                kernels = frozenset(rng.sample(KERNELS, rng.choice((0, 1, 2))))
                choices.append(Choice(option, *figures, skips, kernels))
    return tuple(choices)


def deep_menu(layers: int = 150, widths: int = 8, options: int = 6, seed: int = 0) -> Menu:
    """A residual network of about ``layers`` convolutions in three stages, and the joins between them.

    The convolutions of a stage share the group of the residual stream; each block has an inner group of its own.
    Every group has ``widths`` widths and every convolution ``options`` options (at most six) at each pair of them.
    Latency falls in steps of 16 channels, as on a device; the loss grows ever faster with what is cut.
    """
    deep = _Deep(Random(seed), widths, options)
    deep.conv("stem", "image", None, "stage0", 1024)
    stream, blocks = "stem", max((layers - 4) // 2, 1)
    for index in range(blocks):
        stage, before = (3 * i // blocks for i in (index, max(index - 1, 0)))
        name, pixels, kept = f"block{index}", 1024 >> 2 * stage, stream
        branch = name if stage == before else None
        deep.conv(f"{name}.one", stream, f"stage{before}", f"inner{index}", pixels, branch)
        deep.conv(f"{name}.two", f"{name}.one", f"inner{index}", f"stage{stage}", pixels, branch)
        if branch is None:
            kept = f"{name}.shortcut"
            deep.conv(kept, stream, f"stage{before}", f"stage{stage}", pixels)
        stream = f"{name}.join"
        deep.join(stream, f"{name}.two", kept, f"stage{stage}", pixels, branch)
    deep.conv("head", stream, f"stage{3 * (blocks - 1) // blocks}", None, 1)
    return deep.build()


class _Deep:
    """The network of ``deep_menu`` while it grows, layer by layer, each reading what is there already."""

    def __init__(self, rng: Random, widths: int, options: int) -> None:
        self.rng, self.count, self.options = rng, widths, OPTIONS[:options]
        self.layers: list[LayerMenu] = []
        self.branches: list[BranchMenu] = []
        self.groups: dict[str, GroupMenu] = {}
        self.readers: dict[str, list[str]] = {}
        self.pixels: dict[str, int] = {"image": 1024}

    def widths(self, group: str | None, stage_pixels: int) -> tuple[int, ...]:
        """The widths of ``group``, made on first sight: 64 channels at 1024 pixels, twice as many at a quarter."""
        if group is None:
            return (0,)
        if group not in self.groups:
            full = 2048 // math.isqrt(stage_pixels)
            sensitivity = self.rng.uniform(0.1, 1.0) * (4 if group.startswith("stage") else 1)
            steps = (full * (i + 1) // self.count for i in range(self.count))
            self.groups[group] = GroupMenu(group, {w: sensitivity * ((full - w) / full) ** 2 for w in steps})
        return tuple(self.groups[group].widths)

    def conv(
        self, name: str, source: str, reads: str | None, writes: str | None, pixels: int, branch: str | None = None
    ) -> None:
        """A convolution of 3x3 at 10 GMAC/s in fp32, with every option at every pair of widths."""
        sensitivity, choices = self.rng.uniform(0.01, 0.3), []
        for read, write in product(self.widths(reads, 4 * pixels), self.widths(writes, pixels)):
            macs = 9 * pixels * 4 * math.ceil((read or 3) / 4) * 16 * math.ceil((write or 10) / 16)
            output = 4.0 * pixels * (write or 10)
            for option, speed, stored, loss in self.options:
                bytes_ = 36.0 * (read or 3) * (write or 10) * stored
                ms, scratch = 0.004 + macs * speed / 1e7, output / 4 if option.form else 0.0
                made = output / 4 if option.precision == INT8 else output
                widths = read or None, write or None
                choices.append(Choice(option, ms, sensitivity * loss, *widths, bytes_, bytes_, made, scratch))
        self._add(LayerMenu(name, tuple(choices), reads, writes, branch), (source,), pixels)

    def join(self, name: str, made: str, kept: str, group: str, pixels: int, branch: str | None) -> None:
        """The sum of ``made`` and ``kept``, which passes ``kept`` on where ``branch`` is left out."""
        choices = []
        for width in self.widths(group, pixels):
            for option, speed in zip(PRECISIONS, (1.0, 0.3), strict=True):
                held = (4.0 if option.precision == FP32 else 1.0) * pixels * width
                ms = 0.002 + pixels * width * speed / 1e6
                choices.append(Choice(option, ms, reads=width, writes=width, output_bytes=held))
                if branch:
                    choices.append(replace(choices[-1], latency_ms=0.0, skips=True))
        if branch:
            self.branches.append(BranchMenu(branch, name, self.rng.uniform(0.5, 4.0)))
        self._add(LayerMenu(name, tuple(choices), group, group), (made, kept), pixels)

    def _add(self, layer: LayerMenu, sources: tuple[str, ...], pixels: int) -> None:
        self.layers.append(layer)
        self.pixels[layer.name] = pixels
        for source in sources:
            self.readers.setdefault(source, []).append(layer.name)

    def build(self) -> Menu:
        """The menu, with a change of precision on every tensor and the outputs that are live at every step."""
        group_of: dict[str, str | None] = {layer.name: layer.writes for layer in self.layers} | {"image": None}
        changes = []
        for tensor, group in group_of.items():
            widths = self.groups[group].widths if group else (None,)
            prices = {width: 0.002 + self.pixels[tensor] * (width or 3) / 4e6 for width in widths}
            readers = tuple(self.readers.get(tensor, ()))
            changes.append(Change(tensor, readers, group, prices, prices, is_output=not readers))
        order = {layer.name: index for index, layer in enumerate(self.layers)}
        end = {name: max((order[r] for r in self.readers.get(name, ())), default=len(order)) for name in order}
        live = {s: tuple(name for name in order if order[name] <= at <= end[name]) for s, at in order.items()}
        groups = tuple(self.groups.values())
        return Menu(tuple(self.layers), groups, tuple(self.branches), tuple(changes), live, 0.05, 1e5, 1e4)
