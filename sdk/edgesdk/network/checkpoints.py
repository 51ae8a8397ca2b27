"""Weights as people have them: files of tensors and trainers' checkpoints, read without executing what is in them."""

from __future__ import annotations

import argparse
import pathlib
import pickle
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from edgesdk.core.errors import ModelError
from edgesdk.core.wording import listed, said

DEPTH = 3  # of dictionaries within a checkpoint
WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "module")
"""What torch.compile, FSDP, activation checkpointing and data parallelism put into names, wherever they are around a
module."""
AVERAGE = "ema"  # in the name of a second set of weights, which is taken only where it is the one, or was asked for
LFS = b"version h"  # how a file begins that Git LFS has in the place of a large one
COUNTERS = ("num_batches_tracked", "n_averaged")  # no part of what a model computes
WEIGHT_NORM = {"g": "original0", "v": "original1"}  # how parts of a weight were called, and are now
SPECTRAL = {"orig": "original", "u": "0._u", "v": "0._v"}
NORMED = re.compile(r"(.*\.|)parametrizations\.(\w+)\.(\S+)")
STATISTICS = ("running_mean", "running_var")  # buffers that training fills
HARMLESS: list[Any] = [
    argparse.Namespace, pathlib.PosixPath, defaultdict, dict, np.dtype, np.ndarray,
    np._core.multiarray.scalar, np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
    (np._core.multiarray.scalar, "numpy.core.multiarray.scalar"),  # type: ignore[attr-defined]
    (np._core.multiarray._reconstruct, "numpy.core.multiarray._reconstruct"),  # type: ignore[attr-defined]
    *(type(np.dtype(kind)) for kind in ("float64", "float32", "float16", "int64", "int32", "uint8", "bool")),
]  # fmt: skip  # options and figures that trainers put beside the weights; making one of them does nothing else


@dataclass(frozen=True)
class _Held:
    """Tensors in a checkpoint under ``path``, by their names there without what ``wrappers`` put into them."""

    path: tuple[str, ...]
    tensors: Mapping[str, Tensor]
    wrappers: tuple[str, ...]

    @property
    def name(self) -> str:
        return ".".join(self.path)


def fill(
    model: nn.Module, path: Path, force: bool = False, stored: Mapping[str, str] = MappingProxyType({})
) -> tuple[str, ...]:
    """Copy the weights in the file ``path`` into ``model``; what a reader must know of it.

    ``path`` is a safetensors file, or what ``torch.load(weights_only=True)`` accepts: a state dict, or a checkpoint
    that holds one anywhere; the one that fits the model best is taken. ``file.pt:name`` takes the one of that name,
    which may be a prefix of names: ``file.pt:student``.
    Prefixes that wrappers put before names (``module.``, ``model.``, ``_orig_mod.``) are taken off, or put on; names
    may be those that ``stored`` has for the model's own, too. Nothing is copied unless every parameter is there in its
    shape; with ``force`` what is missing stays as it is. Raises ``ModelError``.
    """
    path, wanted_name = _parted(path)
    content = _content(path)
    wrappers = WRAPPERS if not any("module" in name.split(".") for name in model.state_dict()) else WRAPPERS[:-1]
    own_names = {_bare(name, wrappers): name for name in model.state_dict()}
    wanted = {_bare(name, wrappers): tensor for name, tensor in model.state_dict().items()}
    made = {_bare(name, wrappers) for name, _ in model.named_buffers() if not name.endswith(STATISTICS)}
    every = [part for entry in _held(content, wrappers) for part in _models(entry, wanted)]
    held = [entry for entry in every if wanted_name in (None, entry.name)]
    if wanted_name is not None:
        if not held:
            fact = f"{path} holds no weights under {wanted_name!r}"
            others = listed(entry.name for entry in every if entry.path)
            raise ModelError(fact, f"it holds {others or 'no others'}")
    fitting = [(entry, *_read(entry.tensors, wanted, stored)) for entry in held]
    if not any(fits for *_, fits in fitting) and not _is_state(content):
        _check_holds(path, content)
        fact = f"{path} holds no state dict of this model ({_kinds(content)})"
        raise ModelError(fact, "save model.state_dict() alone")
    most = max(fits for *_, fits in fitting)
    best = [entry for entry in fitting if entry[-1] == most]
    taken, state, stripped, added, _ = next((e for e in best if AVERAGE not in e[0].name.lower()), best[0])
    notes = [_taken(path, content, taken, stripped, added, [entry.name for entry, *_ in best if entry is not taken])]
    notes += _fitted(wanted, made, state, path, force)
    model.load_state_dict({own_names[name]: value for name, value in state.items() if name in wanted}, strict=False)
    return tuple(note for note in notes if note)


def _parted(path: Path) -> tuple[Path, str | None]:
    """The file, and the name within it where one was given."""
    if path.exists() or ":" not in path.name:
        return path, None
    file, _, name = path.name.rpartition(":")
    return path.with_name(file), name


def _content(path: Path) -> Any:
    """What the file holds: a mapping of tensors by name, or whatever a trainer saved around it."""
    start = b""
    try:
        with path.open("rb") as file:
            start = file.read(9)
        if path.suffix == ".safetensors" or start[8:] == b"{":  # its header is JSON after eight bytes of length
            return load_file(path)
        with warnings.catch_warnings(), torch.serialization.safe_globals(HARMLESS):
            warnings.simplefilter("ignore")  # about the pickle protocol; what cannot be read raises
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ModelError(f"there is no file {path}", "check the path of the weights") from None
    except pickle.UnpicklingError as error:
        code = re.search(r"(?:GLOBAL|class|function) ([\w]+(?:\.\w+)+)", str(error))
        if start == LFS:
            raise ModelError(f"{path} is a pointer of Git LFS, not the weights", "fetch them: git lfs pull") from None
        if code:
            fact = f"{path} is a pickle that calls for code ({code[1]}), which is never executed"
        elif start[:1] == b"\x80" or start[:2] == b"PK":
            fact = f"{path} is a pickle with more in it than tensors, which is never executed"
        else:
            fact = f"{path} holds neither safetensors nor a state dict"
        raise ModelError(fact, "save model.state_dict() alone, best as safetensors") from None
    except Exception as error:  # what reads a damaged file raises whatever it trips over, MemoryError among it
        if "TorchScript" in str(error):
            fact = f"{path} is a TorchScript archive, whose code is never executed"
            raise ModelError(fact, "save the state_dict() of the module that it was made from") from None
        raise ModelError(f"{path} cannot be read ({said(error)})", "save the state dict anew") from None


def _held(content: Any, wrappers: Sequence[str], path: tuple[str, ...] = ()) -> Iterator[_Held]:
    """Every mapping in ``content`` that holds tensors, or arrays, from the outside inwards."""
    entries = _entries(content)
    read = {name: _tensor(value) for name, value in entries.items()} if isinstance(content, Mapping) else {}
    tensors = {name: value for name, value in read.items() if value is not None}
    if tensors:
        around = tuple(wrapper for wrapper in wrappers if any(wrapper in name.split(".") for name in tensors))
        yield _Held(path, {_bare(name, wrappers): value for name, value in tensors.items()}, around)
    if len(path) < DEPTH:
        for name, value in entries.items():
            yield from _held(value, wrappers, (*path, name))


def _models(entry: _Held, wanted: Mapping[str, Tensor]) -> list[_Held]:
    """``entry``, or the several whole models that it holds side by side, each under a prefix: a teacher and a student,
    encoders of queries and of keys."""
    needed = {name for name in wanted if not name.endswith(COUNTERS)}
    prefixes = Counter(
        name[: -len(own)]
        for name in entry.tensors
        for own in (name.split(".", depth)[-1] for depth in range(1, name.count(".") + 1))
        if own in needed
    )
    whole = [prefix for prefix, count in prefixes.items() if count == len(needed)]
    if len(whole) < 2 or needed <= set(entry.tensors):
        return [entry]
    return [
        _Held(
            (*entry.path, *prefix[:-1].split(".")),
            {name.removeprefix(prefix): t for name, t in entry.tensors.items() if name.startswith(prefix)},
            entry.wrappers,
        )
        for prefix in whole
    ]


def _entries(content: Any) -> Mapping[str, Any]:
    """What a mapping or list holds, by name or place."""
    if isinstance(content, (list, tuple)):
        content = dict(enumerate(content))
    return {str(name): value for name, value in content.items()} if isinstance(content, Mapping) else {}


def _tensor(value: Any) -> Tensor | None:
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub" and value.ndim:
        return torch.from_numpy(value)
    return value if isinstance(value, Tensor) else None


def _bare(name: str, wrappers: Sequence[str]) -> str:
    """``name`` without the parts that are ``wrappers``."""
    return ".".join(part for part in name.split(".") if part not in wrappers)


def _in_style(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """``tensors`` with the parts of normed weights called as the model calls them: as PyTorch did, or does now."""
    if any("parametrizations" in name.split(".") for name in wanted):
        names, own = {}, {name.rpartition(".")[2] for name in wanted}
        for name in tensors:
            owner, _, leaf = name.rpartition(".")
            weight, _, kind = leaf.rpartition("_")
            norm = SPECTRAL if f"{name.removesuffix(kind)}orig" in tensors else WEIGHT_NORM
            parts = (owner, "parametrizations", weight, norm.get(kind, ""))
            names[name] = ".".join(filter(None, parts)) if weight and kind in norm and leaf not in own else name
        return {names[name]: value for name, value in tensors.items()}
    old = {new: kind for norm in (WEIGHT_NORM, SPECTRAL) for kind, new in norm.items()}
    matches = {name: NORMED.fullmatch(name) for name in tensors}
    return {
        f"{match[1]}{match[2]}_{old[match[3]]}" if match and match[3] in old else name: tensors[name]
        for name, match in matches.items()
    }


def _read(
    tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor], stored: Mapping[str, str]
) -> tuple[Mapping[str, Tensor], str, str, int]:
    """What :func:`_aligned` makes of ``tensors``, by the model's names, or by those that it is ``stored`` with."""
    own = _aligned(_in_style(tensors, wanted), wanted)
    on_disk = {**wanted, **{name: wanted[other] for name, other in stored.items() if other in wanted}}
    state, *done, fits = _aligned(tensors, on_disk)
    if fits <= own[-1]:
        return own
    return {stored.get(name, name): value for name, value in state.items()}, done[0], done[1], fits


def _aligned(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> tuple[Mapping[str, Tensor], str, str, int]:
    """``tensors`` under the model's names; the prefixes taken off and put on; how well they then fit the model."""

    def ends(name: str) -> Iterator[int]:
        yield from (i + 1 for i, letter in enumerate(name) if letter == ".")

    off = Counter(name[:i] for name in tensors for i in ends(name) if name[i:] in wanted)
    on = Counter(name[:i] for name in wanted for i in ends(name) if name[i:] in tensors)
    ways = [("", ""), *((prefix, "") for prefix, _ in off.most_common()), *(("", p) for p, _ in on.most_common())]

    def renamed(stripped: str, added: str) -> dict[str, Tensor]:
        kept = {n: t for n, t in tensors.items() if not n.startswith(stripped)}  # beside the model: losses, metrics
        return kept | {added + n[len(stripped) :]: t for n, t in tensors.items() if n.startswith(stripped)}

    def fits(state: Mapping[str, Tensor]) -> int:
        return sum(1 + (wanted[name].shape == tensor.shape) for name, tensor in state.items() if name in wanted)

    readings = [(renamed(*way), *way) for way in ways]
    state, stripped, added = max(readings, key=lambda reading: (fits(reading[0]), AVERAGE not in reading[1].lower()))
    return state, stripped, added, fits(state)


def _is_state(content: Any) -> bool:
    return isinstance(content, Mapping) and bool(content) and all(isinstance(v, Tensor) for v in content.values())


def _check_holds(path: Path, content: Any) -> None:
    if isinstance(content, Mapping) and not content:
        raise ModelError(f"{path} holds nothing", "save model.state_dict() anew")


def _kinds(content: Any) -> str:
    if not isinstance(content, Mapping):
        return type(content).__name__
    return "values that are not tensors: " + listed(k for k, v in content.items() if not isinstance(v, Tensor))


def _kind(tensor: Tensor) -> str:
    """What a tensor is that cannot be copied into a parameter."""
    if tensor.is_meta:
        return "a shape without values"
    return "a nested tensor" if tensor.is_nested else str(tensor.layout).removeprefix("torch.")


def _taken(path: Path, content: Any, taken: _Held, stripped: str, added: str, others: list[str]) -> str:
    """What was taken of a file and done to its names; nothing of a plain state dict."""
    parts = []
    if taken.path:
        entries = _entries(content)
        beside = listed(key for key in entries if key != taken.path[0]) if taken.path[0] in entries else ""
        parts.append(f"took {taken.name!r}" + (f", beside {beside}" if beside else ""))
    off = [repr(f"{wrapper}.") for wrapper in taken.wrappers] + [repr(stripped)] * bool(stripped)
    parts += [f"stripped {' and '.join(off)} from its names"] if off else []
    parts += [f"put {added!r} before its names"] if added else []
    if others:
        parts.append(f"{listed(others)} would fit as well ({path.name}:{others[0]} takes it)")
    return f"weights from {path}: {', '.join(parts)}" if parts else ""


def _fitted(
    wanted: Mapping[str, Tensor], made: Container[str], state: Mapping[str, Tensor], path: Path, force: bool
) -> list[str]:
    """Notes on names of one side alone; buffers that the model has ``made`` itself may be missing.

    Raises ``ModelError`` where weights are missing or of another shape.
    """
    given = {tensor.data_ptr() for name, tensor in wanted.items() if name in state and tensor.numel()}
    # safetensors keep a shared tensor once; old checkpoints know no counters, which evaluation does not use
    missing = [
        name
        for name, tensor in wanted.items()
        if name not in state and not name.endswith(COUNTERS) and tensor.data_ptr() not in given
    ]
    lacks = [name for name in missing if name not in made]
    extra = [name for name in state if name not in wanted and not name.endswith(COUNTERS)]
    differ = [
        f"{name} of shape {tuple(state[name].shape)} where the model has {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in state and state[name].shape != tensor.shape
    ]
    differ += [
        f"{name} as {str(state[name].dtype).removeprefix('torch.')} where the model has floats"
        for name, tensor in wanted.items()
        if name in state and tensor.is_floating_point() and not state[name].is_floating_point()
    ]
    differ += [
        f"{name} as {_kind(state[name])}"
        for name in wanted
        if name in state and (state[name].layout != torch.strided or state[name].is_meta or state[name].is_nested)
    ]
    if differ or lacks and not force:
        parts = [("it lacks", lacks), ("the model has no", extra), ("it holds", differ)]
        says = [f"{says} {listed(names)}" for says, names in parts if names]
        remedy = "give the weights of this model, or the model of these weights"
        raise ModelError(f"the weights in {path} do not fit the model: {'; '.join(says)}", remedy)
    notes = []
    if extra:
        notes.append(f"weights from {path}: {len(extra)} of {len(state)} are no part of the model: {listed(extra)}")
    if lacks:
        left = f"{len(lacks)} of the model's {len(wanted)} are missing and left as they were: {listed(lacks)}"
        notes.append(f"weights from {path}: {left}")
    if left := [name for name in missing if name in made]:
        notes.append(f"weights from {path}: buffers that are not there are as the model made them: {listed(left)}")
    return notes
