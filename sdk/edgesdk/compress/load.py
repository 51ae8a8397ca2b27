"""The user's own code and weights: ``file.py:callable``, models, and state dicts that are never executed."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import pickle
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from edgesdk.errors import EdgeSdkError, ModelError, UsageError

SHOWN = 3  # names in a message, before the rest is counted
FORM = "write path/to/file.py:callable or package.module:callable"


def load_callable(spec: str, what: str, error: type[EdgeSdkError] = UsageError) -> Callable[..., Any]:
    """What ``spec`` names: ``path/to/file.py:callable`` or ``package.module:callable``.

    The file's folder, or the working directory, is where its own imports are looked for first. Raises ``error``, with
    ``what`` (MODEL, DATA) in its message, where there is no such file, module or callable, or importing it fails.
    """
    where, colon, name = spec.rpartition(":")
    if not (colon and where and name):
        raise error(f"{what} {spec!r} names no callable", FORM)
    module = _module(where, what, error)
    try:
        found = getattr(module, name)
    except AttributeError:
        public = [n for n, value in vars(module).items() if callable(value) and not n.startswith("_")]
        own = [n for n in public if getattr(vars(module)[n], "__module__", None) == module.__name__]
        close = difflib.get_close_matches(name, public, SHOWN) or own[:SHOWN]
        remedy = f"did you mean {' or '.join(close)}?" if close else "define it there, or name another"
        raise error(f"{what}: {where} has no {name!r}", remedy) from None
    if not callable(found):
        fact = f"{what} {spec} is of type {type(found).__name__}, which cannot be called"
        raise error(fact, "name a function or a class")
    return found


def said(error: BaseException) -> str:
    """An exception on one line: its type, and the first line of its message that says something."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {first[:200]}" if first else type(error).__name__


def load_model(spec: str | nn.Module, weights: str | Path | None = None) -> nn.Module:
    """The model that ``spec`` names or is, with ``weights`` in it, in evaluation mode.

    ``weights`` is a safetensors file, or a state dict (or ``{"state_dict": ...}``) that
    ``torch.load(weights_only=True)`` accepts; nothing in it is executed. A module given as such is changed in place.
    Raises ``ModelError`` for a ``spec`` that makes no ``nn.Module``, and for weights that cannot be read, do not fit,
    or are not finite.
    """
    model = _made(spec) if isinstance(spec, str) else spec
    if not isinstance(model, nn.Module):
        made = f"MODEL {spec} returned" if isinstance(spec, str) else "the model is"
        raise ModelError(f"{made} an object of type {type(model).__name__}", "it must be a torch.nn.Module")
    if lazy := [name for name, value in model.named_parameters() if is_lazy(value)]:
        raise ModelError(f"the model has parameters without a shape: {listed(lazy)}", "run it once before returning it")
    if weights is not None:
        _fill(model, _state(Path(weights)), Path(weights))
    _check_finite(model, str(weights) if weights is not None else "the model")
    return model.eval()


def _made(spec: str) -> Any:
    found = load_callable(spec, "MODEL", ModelError)
    if isinstance(found, nn.Module):
        return found
    try:
        return found()
    except EdgeSdkError:
        raise
    except (Exception, SystemExit) as error:
        fact = f"calling MODEL {spec} failed with {said(error)}"
        raise ModelError(fact, "it must return the model when called without arguments") from error


def _module(where: str, what: str, error: type[EdgeSdkError]) -> ModuleType:
    is_file = where.endswith(".py") or "/" in where or "\\" in where
    path = Path(where).expanduser()
    if is_file and not path.is_file():
        raise error(f"{what}: there is no file {where}", "check the path")
    try:
        with _imports_from(path.resolve().parent if is_file else Path.cwd()):
            return _executed(path.resolve()) if is_file else importlib.import_module(where)
    except (Exception, SystemExit) as failure:
        if isinstance(failure, ModuleNotFoundError) and failure.name and (where + ".").startswith(failure.name + "."):
            raise error(f"{what}: there is no module {failure.name!r}", f"install it, or {FORM}") from None
        line = _line(failure, path) if is_file else ""
        fact = f"{what}: importing {where} failed with {said(failure)}{line}"
        raise error(fact, "make it import in Python first") from failure


def _executed(path: Path) -> ModuleType:
    """The module in one file, under a name that no other module has."""
    name = f"_edgesdk_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path.name} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickles look a class's module up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


@contextmanager
def _imports_from(folder: Path) -> Iterator[None]:
    """``folder`` comes first while importing, as for a script, and last for what is imported later."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        if str(folder) not in sys.path:
            sys.path.append(str(folder))


def _line(error: BaseException, path: Path) -> str:
    """Where in the user's file ``error`` arose, in brackets."""
    trace, found = error.__traceback__, None
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path.resolve()):
            found = trace.tb_lineno
        trace = trace.tb_next
    return f" (line {found})" if found else ""


def _state(path: Path) -> dict[str, Tensor]:
    """The tensors in a file of weights, by name."""
    start = b""
    try:
        with path.open("rb") as file:
            start = file.read(9)
        if path.suffix == ".safetensors" or start[8:] == b"{":  # its header is JSON after eight bytes of length
            return load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the pickle protocol; what cannot be read raises
            state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ModelError(f"there is no file {path}", "check the path of the weights") from None
    except pickle.UnpicklingError as error:
        code = re.search(r"(?:GLOBAL|class|function) ([\w]+(?:\.\w+)+)", str(error))
        if code:
            fact = f"{path} is a pickle that calls for code ({code[1]}), which is never executed"
        elif start[:1] == b"\x80" or start[:2] == b"PK":
            fact = f"{path} is a pickle with more in it than tensors, which is never executed"
        else:
            fact = f"{path} holds neither safetensors nor a state dict"
        raise ModelError(fact, "save model.state_dict() alone, best as safetensors") from None
    except (OSError, SafetensorError, RuntimeError, EOFError, ValueError, KeyError, IndexError, TypeError) as error:
        raise ModelError(f"{path} cannot be read ({said(error)})", "save the state dict anew") from None
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        held = type(state).__name__
        if isinstance(state, Mapping):
            held = "values that are not tensors: " + listed(k for k, v in state.items() if not isinstance(v, Tensor))
        raise ModelError(f"{path} holds no state dict ({held})", "save model.state_dict() alone")
    return dict(state)


def _fill(model: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Copy ``state`` into ``model``; nothing is copied unless all of it fits."""
    wanted = model.state_dict()
    given = {tensor.data_ptr() for name, tensor in wanted.items() if name in state and tensor.numel()}
    # safetensors keep a shared tensor once; old checkpoints know no num_batches_tracked, which evaluation does not use
    lacks = [
        name
        for name, tensor in wanted.items()
        if name not in state and not name.endswith("num_batches_tracked") and tensor.data_ptr() not in given
    ]
    extra = [name for name in state if name not in wanted]
    differ = [
        f"{name} of shape {tuple(state[name].shape)} where the model has {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in state and state[name].shape != tensor.shape
    ]
    parts = [("it lacks", lacks), ("the model has no", extra), ("it holds", differ)]
    if found := [f"{says} {listed(names)}" for says, names in parts if names]:
        raise ModelError(
            f"the weights in {path} do not fit the model: {'; '.join(found)}",
            "give the weights of this model, or the model of these weights",
        )
    model.load_state_dict(dict(state), strict=False)


def _check_finite(model: nn.Module, source: str) -> None:
    """Raise ``ModelError`` for NaN or infinite parameters, and for NaN buffers (masks hold infinities on purpose)."""
    bad = [name for name, value in model.named_parameters() if not torch.isfinite(value).all()]
    bad += [name for name, value in model.named_buffers() if torch.isnan(value).any()]
    if bad:
        raise ModelError(f"{source} has NaN or infinite weights: {listed(bad)}", "give the weights of a sound training")


def listed(names: Iterable[object]) -> str:
    """The first few of ``names``, then how many more there are."""
    shown = [str(name) for name in names]
    more = f" and {len(shown) - SHOWN} more" if len(shown) > SHOWN else ""
    return ", ".join(shown[:SHOWN]) + more
