"""A copy of a user's module that computes by its own parts alone, whatever functions it holds."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from types import CellType, FunctionType, MethodType
from typing import Any

from torch import Tensor, nn

from edgesdk.core.errors import ModelError

PARTS = ("_modules", "_parameters", "_buffers")  # of a module, which PyTorch copies


def copied(model: nn.Module) -> nn.Module:
    """A copy of ``model`` that shares nothing with it but what cannot be copied, like locks and open files.

    Functions that it holds, hooks among them, see in their closures and defaults the copies of what they saw. Raises
    ``ModelError`` where Python cannot make one.
    """
    try:
        return _copied(model, _unleaved(model))
    except Exception:  # whatever a part of the model raises
        shared = _unleaved(model) | {id(value): value for value in _held(model) if not _can_be_copied(value)}
    try:
        return _copied(model, shared)
    except Exception as error:
        said = next(iter(str(error).splitlines()), "")
        raise ModelError(
            f"the model cannot be copied ({type(error).__name__}: {said})", "make it so that copy.deepcopy takes it"
        ) from None


def _copied(model: nn.Module, copies: dict[int, Any]) -> nn.Module:
    """A copy of ``model`` in which ``copies`` stand for what has their identities."""
    functions = {id(function): function for function in _functions(_held(model)) if id(function) not in copies}
    remade = {key: _with_own_cells(function) for key, function in functions.items()}
    copies |= remade
    result = copy.deepcopy(model, copies)
    for key, function in functions.items():
        own = remade[key]
        own.__defaults__ = function.__defaults__ and tuple(_copy_of(value, copies) for value in function.__defaults__)
        for before, after in zip(function.__closure__ or (), own.__closure__ or (), strict=True):
            if not _is_empty(before):
                after.cell_contents = _copy_of(before.cell_contents, copies)
    return result


def _unleaved(model: nn.Module) -> dict[int, Any]:
    """Copies of tensors that were computed, by their identities: deepcopy refuses such."""
    made = [value for part in model.modules() for value in vars(part).values() if isinstance(value, Tensor)]
    return {id(value): value.detach().clone() for value in made if not value.is_leaf}


def _held(model: nn.Module) -> Iterator[Any]:
    """What the parts of ``model`` hold beside modules and tensors, attributes of several values taken apart."""
    for part in model.modules():
        for name, value in vars(part).items():
            if name in PARTS:
                continue
            if isinstance(value, Mapping):
                yield from value.values()
            elif isinstance(value, (list, tuple, set)):
                yield from value
            else:
                yield value


def _can_be_copied(value: Any) -> bool:
    if isinstance(value, (nn.Module, Tensor)):
        return True
    try:
        copy.deepcopy(value)
    except Exception:
        return False
    return True


def _functions(values: Iterable[Any], seen: set[int] | None = None) -> Iterator[FunctionType]:
    """The functions among ``values`` that keep something, and those that such functions keep."""
    seen = set() if seen is None else seen
    for value in values:
        function = getattr(value, "func", value)  # a partial's
        if not isinstance(function, FunctionType) or id(function) in seen:
            continue
        seen.add(id(function))
        kept = [cell.cell_contents for cell in function.__closure__ or () if not _is_empty(cell)]
        kept += function.__defaults__ or ()
        if kept:
            yield function
            yield from _functions(kept, seen)


def _with_own_cells(function: FunctionType) -> FunctionType:
    cells = tuple(CellType() for _ in function.__closure__ or ())
    own = FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__, cells)
    own.__kwdefaults__, own.__qualname__ = function.__kwdefaults__, function.__qualname__
    own.__dict__.update(function.__dict__)
    return own


def _is_empty(cell: CellType) -> bool:
    try:
        return cell.cell_contents is cell  # a cell's contents raise where there are none
    except ValueError:
        return True


def _copy_of(value: Any, copies: Mapping[int, Any]) -> Any:
    """The copy of ``value``, or itself where none was made; a method is that of its object's copy."""
    if isinstance(value, MethodType) and id(value.__self__) in copies:
        return MethodType(value.__func__, copies[id(value.__self__)])
    return copies.get(id(value), value)
