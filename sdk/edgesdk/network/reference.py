"""The user's own module in evaluation mode: what every proof starts at, and whether a traced network is the same."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from edgesdk.core.errors import ModelError
from edgesdk.core.wording import counted
from edgesdk.network.copying import copied
from edgesdk.network.fuse import run
from edgesdk.network.network import Batch, Network, answer, rebatch, tensors
from edgesdk.network.places import name_operator
from edgesdk.network.source import source_of

if TYPE_CHECKING:
    from edgesdk.network.onnx_module.runtime import FileAnswers

SAMPLES = 8  # real ones, that a traced network is compared on
TOLERANCE = 1e-3  # of a value's spread: a kernel sums in another order for another size of batch
FORGETTING = "let forward() depend on its inputs alone, not on what it kept in the module"
NUDGE = 1e-6  # of an input's spread: what rounding does to floats
STEADIER = "train it with normalization between its layers, or with smaller weights: no two runtimes round alike"
ROUGH = 5e-2  # where forward() computes in bfloat16 what the network computes in float32


class Reference:
    """What a user's model answers: a copy of the module in evaluation mode, called as the user calls it.

    Of a module that was made of an ONNX file it is that file, run by ONNX Runtime, for as long as the module has its
    weights. A call leaves its inputs and the random number generators as they were. Raises ``ModelError`` for a module
    that cannot be copied.
    """

    def __init__(self, model: nn.Module) -> None:
        self.module: nn.Module = copied(model).eval()
        self.file: FileAnswers | None = _file(self.module)

    def __call__(self, x: Batch) -> Any:
        """The module's outputs, in the structure in which it returns them."""
        with same_random_numbers():
            return self.answer(x)

    def flat(self, x: Batch) -> list[Tensor]:
        """The tensors among the outputs, in order."""
        return [value for value in pytree.tree_leaves(self(x)) if isinstance(value, Tensor)]

    def arrays(self, x: Batch) -> list[np.ndarray]:
        """As ``flat``, for NumPy, which has no bfloat16: that is float32 there."""
        answers = (value.detach() for value in self.flat(x))
        return [(value.float() if value.dtype == torch.bfloat16 else value).numpy() for value in answers]

    def answer(self, x: Batch) -> Any:
        """As a call, but drawing random numbers, if the module does."""
        return answer(self.module, x) if self.file is None else self.file(x)


def _file(module: nn.Module) -> FileAnswers | None:
    """The file that ``module`` was made of; ``None`` where there is none, or it learnt since."""
    source = source_of(module)
    if source is None or not source.holds(module):
        return None
    from edgesdk.network.onnx_module.runtime import FileAnswers  # a runtime, which other modules do without

    return FileAnswers(source)


@contextmanager
def same_random_numbers() -> Iterator[None]:
    """Leave the random number generators of PyTorch, NumPy and Python as they were before."""
    before = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        torch.set_rng_state(before[0])
        np.random.set_state(before[1])
        random.setstate(before[2])


def check(network: Network, reference: Reference, x: Batch) -> None:
    """Raise ``ModelError`` unless ``network`` is what ``reference`` is on the first samples of ``x``.

    Also where the module itself answers the same samples differently from call to call, or a sample differently in a
    batch and alone: no file can. The error names the operator or module at which the two first part.
    """
    x = rebatch(x, lambda t: t[:SAMPLES])
    with same_random_numbers():
        _check_translated(reference, x)
        _check_repeats(network, reference, x)
        if len(tensors(x)[0]) > 1:
            _check_rows(network, reference, x)
        _check_traced(network, reference, x)


def _check_translated(reference: Reference, x: Batch) -> None:
    """Raise ``ModelError`` where the module that was made of a file is not what ONNX Runtime makes of that."""
    file = reference.file
    if file is None or _same(answer(reference.module, x), file(x)):
        return
    _check_steady(reference, x)
    place = file.parting(reference.module, x, _same)
    fact = f"the module made of {file.source.path.name} does not compute what ONNX Runtime does of it, from {place} on"
    raise ModelError(fact, "name the PyTorch module that it was exported from, as file.py:callable")


def _check_repeats(network: Network, reference: Reference, x: Batch) -> None:
    if _same(reference.answer(x), reference.answer(x)):
        return
    where = _place(network, _apart(_nodes(network, x), _nodes(network, x)))
    where = where or _part(reference, _apart(_parts(reference, x), _parts(reference, x)))
    if _same(reference(x), reference(x)):  # with the same random numbers
        fact = f"in evaluation mode the model draws random numbers: two calls differ from {where} on"
        raise ModelError(fact, "draw them in training alone: functional.dropout takes training=self.training")
    fact = f"the model remembers earlier calls: two calls on the same samples differ from {where} on"
    raise ModelError(fact, FORGETTING)


def _check_forgets(reference: Reference, x: Batch, before: Tensor, place: int) -> None:
    """Raise ``ModelError`` where a value that the model returned for ``x`` is another one after calls in between."""
    if not _same(before, pytree.tree_leaves(reference.answer(x))[place]):
        fact = f"the model remembers earlier calls: output {place + 1} changes for the same samples after some calls"
        raise ModelError(fact, FORGETTING)


def _check_rows(network: Network, reference: Reference, x: Batch) -> None:
    rows = [rebatch(x, lambda t, i=i: t[i : i + 1]) for i in range(len(tensors(x)[0]))]
    whole, *each = [pytree.tree_leaves(reference.answer(batch)) for batch in (x, *rows)]
    if other := next((own for own in each if len(own) != len(whole)), None):
        fact = f"the model returns {counted(len(whole), 'value')} for {len(rows)} samples, and {len(other)} for one"
        raise ModelError(fact, "return the same outputs for any number of samples, with these along the first axis")
    for place, (value, *own) in enumerate(zip(whole, *each, strict=True), 1):
        if not isinstance(value, Tensor):
            continue
        axis = _axis(value, own[0])
        if axis:
            fact = f"output {place} of the model has the samples of a batch along axis {axis}"
            raise ModelError(fact, "return them along the first axis")
        if not _same(value, own[0] if axis is None else torch.cat(own)):
            _check_steady(reference, rows[0])
            _check_forgets(reference, x, value, place - 1)
            where = _place(network, _first(network, _mixed(lambda batch: _nodes(network, batch), x, rows)))
            where = where or _part(reference, next(iter(_mixed(lambda batch: _parts(reference, batch), x, rows)), None))
            if value.dim() != own[0].dim():
                fact = f"output {place} of the model has another number of axes for a single sample, from {where} on"
                raise ModelError(fact, "keep the axis of samples: squeeze(1) or flatten(1) in the place of squeeze()")
            fact = f"what the model answers to a sample depends on the others in its batch, from {where} on"
            raise ModelError(fact, "compute along other axes than the first; a BatchNorm needs track_running_stats")


def _check_traced(network: Network, reference: Reference, x: Batch) -> None:
    with torch.no_grad():
        outputs = network(x)
    tolerance = ROUGH if network.module.meta.get("halves") else TOLERANCE
    if _same(outputs, reference.answer(x), tolerance):
        return
    _check_steady(reference, x)
    if drawn := next((node.name for node in network.module.graph.nodes if _is_random(node)), None):
        fact = f"in evaluation mode the model draws random numbers, by a seed of its own, at {_place(network, drawn)}"
        raise ModelError(fact, "draw them once in __init__, and keep them as a buffer")
    values, within = run(network.module, x), _within(network.module)
    apart, before = None, None
    for path, value in _parts(reference, x).items():
        own = [values[name] for name in within.get(path, ())]
        if not own or any(_same(entry, value, tolerance) for entry in own):
            before = path
            continue
        apart = path
        break
    where = _part(reference, apart) + (f", after {_part(reference, before)}" if before and apart else "")
    fact = f"tracing the model does not give what the model computes: the two part at {where}"
    raise ModelError(fact, "let forward() do the same when it is traced: it must ask neither that nor what values are")


def _is_random(node: fx.Node) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def _check_steady(reference: Reference, x: Batch) -> None:
    """Raise ``ModelError`` where rounding alone accounts for outputs that differ, whatever they differ from."""
    if amplifies := amplification(reference.flat, x, NUDGE, TOLERANCE):
        raise ModelError(amplifies, STEADIER)


def amplification(answers: Callable[[Batch], list[Tensor]], x: Batch, nudge: float, tolerance: float) -> str:
    """In words, how far the ``answers`` to ``x`` move, in their spread, where floats of ``x`` move by ``nudge`` of
    theirs; nothing where that is within ``tolerance``.

    What a model amplifies is told apart so from what a trace or a runtime computes wrongly.
    """
    random = torch.Generator().manual_seed(0)

    def move(t: Tensor) -> Tensor:
        if not t.is_floating_point():
            return t
        return t + nudge * spread(t.double()) * torch.randn(t.shape, generator=random).to(t)

    with torch.no_grad():
        before, after = answers(x), answers(rebatch(x, move))
    by = max(
        (
            float((b.double() - a.double()).square().mean().sqrt()) / spread(b.double())
            for b, a in zip(before, after, strict=True)
            if b.is_floating_point()
        ),
        default=0.0,
    )
    if not by > tolerance:
        return ""
    return (
        f"the model amplifies rounding: its outputs move by {by:.2g} of their spread where its inputs move by {nudge:g}"
    )


def _nodes(network: Network, x: Batch) -> dict[str, Any]:
    """What each operator of the network makes of ``x``."""
    return {name: value for name, value in run(network.module, x).items() if isinstance(value, Tensor)}


def _parts(reference: Reference, x: Batch) -> dict[str, Any]:
    """What each submodule returns when ``x`` is run, in the order in which they end; of several calls, the first."""
    seen: dict[str, Any] = {}

    def noting(path: str) -> Callable[..., None]:
        def note(module: nn.Module, given: Any, value: Any) -> None:
            if isinstance(value, Tensor):
                seen.setdefault(path, value.clone())

        return note

    hooks = [part.register_forward_hook(noting(path)) for path, part in reference.module.named_modules()]
    try:
        answer(reference.module, x)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def _mixed(look: Callable[[Batch], dict[str, Any]], x: Batch, rows: list[Batch]) -> list[str]:
    """The names under which ``look`` finds something else in the batch ``x`` than in its ``rows``, in order."""
    whole, *each = [look(batch) for batch in (x, *rows)]
    joined = {}
    for name, value in whole.items():
        own = [row[name] for row in each if name in row]
        if len(own) == len(rows):
            axis = _axis(value, own[0])
            joined[name] = own[0] if axis is None else torch.cat(own, axis)
    return [name for name, value in whole.items() if name in joined and not _same(value, joined[name])]


def _first(network: Network, mixed: list[str]) -> str | None:
    """The first of the nodes ``mixed`` from which others of them lead to an output."""
    leading: dict[str, None] = {}
    for node in reversed(network.module.graph.nodes):
        if node.name in mixed and any(user.op == "output" or user.name in leading for user in node.users):
            leading[node.name] = None
    return next(reversed(leading), None)


def _axis(whole: Tensor, row: Tensor) -> int | None:
    """The axis along which ``whole`` has more than one sample's ``row``; ``None`` where they are alike."""
    if whole.dim() != row.dim():
        return None
    return next((axis for axis, (a, b) in enumerate(zip(whole.shape, row.shape, strict=True)) if a != b), None)


def _apart(left: Mapping[str, Any], right: Mapping[str, Any]) -> str | None:
    """The first name under which the two hold something else."""
    return next((name for name, value in left.items() if name in right and not _same(value, right[name])), None)


def _same(left: Any, right: Any, tolerance: float = TOLERANCE) -> bool:
    """Whether two outputs are alike up to rounding."""
    ours, theirs = pytree.tree_leaves(left), pytree.tree_leaves(right)
    return len(ours) == len(theirs) and all(
        _near(a, b, tolerance) if isinstance(a, Tensor) and isinstance(b, Tensor) else a == b or a is b
        for a, b in zip(ours, theirs, strict=True)
    )


def _near(left: Tensor, right: Tensor, tolerance: float) -> bool:
    if left.shape != right.shape:
        return False
    if not left.numel():
        return True
    if left.is_complex() and right.is_complex():
        left, right = torch.view_as_real(left), torch.view_as_real(right)
    if not (left.is_floating_point() and right.is_floating_point()):
        return float((left != right).double().mean()) <= tolerance
    left, right = left.detach().double(), right.detach().double()
    sound = torch.isfinite(left)
    if not torch.equal(sound, torch.isfinite(right)):
        return False
    left, right = left[sound], right[sound]
    if not left.numel():
        return True
    return float((left - right).square().mean().sqrt()) <= tolerance * spread(right)


def spread(values: Tensor) -> float:
    """What differences from ``values`` are measured by: their deviation, or where they hardly vary their size."""
    return max(float(values.std(correction=0)), 1e-4 * float(values.abs().max()), 1e-12)


def _part(reference: Reference, path: str | None) -> str:
    """A submodule, named for a user."""
    if not path:
        return f"forward() of {type(reference.module).__name__}"
    return f"{path} ({type(reference.module.get_submodule(path)).__name__})"


def _place(network: Network, name: str | None) -> str | None:
    """An operator of the network, named for a user."""
    return next((name_operator(node) for node in network.module.graph.nodes if node.name == name), None)


def _within(module: fx.GraphModule) -> dict[str, list[str]]:
    """The nodes that were traced inside each module, by its path."""
    names: dict[str, list[str]] = {}
    for node in module.graph.nodes:
        for path in node.meta.get("paths", ()):
            names.setdefault(path, []).append(node.name)
    return names
