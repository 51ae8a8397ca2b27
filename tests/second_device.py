"""A second device for tests where there is no GPU: PyTorch's own key for one, computed by the CPU, as strict as CUDA.

A tensor of it is a wrapper that says it lies there; within :func:`second_device` what is made for that device does, and
an operator that is given tensors of both raises, but for what CUDA takes from the CPU, too: numbers, and indices.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend


class _Backend:
    """What PyTorch asks a kind of device for."""

    is_initialized = is_available = staticmethod(lambda: True)
    current_device = staticmethod(lambda: 0)
    device_count = staticmethod(lambda: 1)
    _is_in_bad_fork = staticmethod(lambda: False)
    manual_seed_all = staticmethod(lambda seed: None)
    get_amp_supported_dtype = staticmethod(lambda: [torch.bfloat16])


_setup_privateuseone_for_python_backend("otherdevice", _Backend())
DEVICE = torch.device("otherdevice:0")
aten = torch.ops.aten
MOVES = (aten._to_copy.default, aten.copy_.default)
INDEXED = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default)


class There(Tensor):
    """A tensor on the second device; ``here`` has its values."""

    here: Tensor

    @staticmethod
    def __new__(cls, here: Tensor) -> There:
        made = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, here.shape, here.stride(), here.storage_offset(), dtype=here.dtype, device=DEVICE
        )
        made.here = here
        return made

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"There({self.here!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, kwargs or {})


def computed(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """What ``func`` makes, on the device of what it is given, or that it is to be made on."""
    given = [value for value in pytree.tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
    there = any(isinstance(value, There) for value in given)
    wanted = kwargs.get("device")
    if func in MOVES:
        there = isinstance(args[0], There) if wanted is None else torch.device(wanted).type == DEVICE.type
    elif wanted is not None:
        there = torch.device(wanted).type == DEVICE.type
    if there and func not in MOVES:
        allowed = given[1:] if func in INDEXED else []
        for value in given:
            number = value.dim() == 0 and torch.Tag.pointwise in func.tags
            if not isinstance(value, There) and not number and all(value is not each for each in allowed):
                raise RuntimeError(f"{func} is given tensors on {DEVICE.type} and on the CPU")
    inside = {**kwargs, "device": torch.device("cpu")} if wanted is not None else kwargs
    unwrap = lambda value: value.here if isinstance(value, There) else value  # noqa: E731
    result = func(*pytree.tree_map(unwrap, args), **pytree.tree_map(unwrap, inside))
    if not there:
        HERE[str(func)] += any(value.dim() > 0 and value.is_floating_point() for value in given)
        return result
    DONE[str(func)] += 1
    wrapped = pytree.tree_map(lambda value: There(value) if isinstance(value, Tensor) else value, result)
    return return_and_correct_aliasing(func, args, kwargs, wrapped)


DONE: Counter[str] = Counter()  # operators that were computed there
HERE: Counter[str] = Counter()  # those on the CPU, of floats, not numbers


class _Making(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, kwargs or {})


@contextmanager
def second_device() -> Iterator[Counter[str]]:
    """Within it the second device is there; how often each operator was computed on it."""
    DONE.clear()
    HERE.clear()
    with _Making():
        yield DONE
