"""The user's own code: ``file.py:callable``, and models with their weights."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from edgesdk.core.errors import EdgeSdkError, ModelError, UsageError
from edgesdk.core.graph import Shapes
from edgesdk.core.wording import SHOWN, listed, said
from edgesdk.network import hugging_face, timm_model, torchvision
from edgesdk.network.card import NONE_GIVEN, card_of
from edgesdk.network.checkpoints import fill
from edgesdk.network.own_weights import noticing_own_weights
from edgesdk.network.untraceable import check_traceable

WEIGHTS = (".pt", ".pth", ".ckpt", ".bin", ".safetensors")
OTHERS = {".tflite": "TFLite", ".h5": "Keras", ".keras": "Keras", ".pb": "TensorFlow", ".xml": "OpenVINO"}
FILES = (".onnx", ".pt2")
STATISTICS = ("running_mean", "running_var")  # of a norm: with an infinite one a channel is constant, or is none
OWN = "_edgesdk_"  # how modules of files that a user named are called
FORM = "write path/to/file.py:callable or package.module:callable"


def load_callable(spec: str, what: str, error: type[EdgeSdkError] = UsageError) -> Callable[..., Any]:
    """What ``spec`` names: ``path/to/file.py:callable`` or ``package.module:callable``.

    The file's folder, or the working directory, is where its own imports are looked for first. Raises ``error``, with
    ``what`` (MODEL, DATA) in its message, where there is no such file, module or callable, or importing it fails.
    """
    where, colon, name = spec.rpartition(":")
    if not (colon and where and name):
        raise _no_callable(spec, what, error)
    module = _module(where, what, error)
    try:
        part = getattr(module, name)
    except AttributeError:
        public = [n for n, value in vars(module).items() if callable(value) and not n.startswith("_")]
        own = [n for n in public if getattr(vars(module)[n], "__module__", None) == module.__name__]
        close = difflib.get_close_matches(name, public, SHOWN) or own[:SHOWN]
        remedy = f"did you mean {' or '.join(close)}?" if close else "define it there, or name another"
        raise error(f"{what}: {where} has no {name!r}", remedy) from None
    if not callable(part):
        fact = f"{what} {spec} is of type {type(part).__name__}, which cannot be called"
        raise error(fact, "name a function or a class")
    return part


def _no_callable(spec: str, what: str, error: type[EdgeSdkError]) -> EdgeSdkError:
    """Why ``spec`` names no callable: for files that models are kept in, what takes them."""
    suffix = Path(spec).suffix.lower()
    if what == "MODEL" and suffix in WEIGHTS:
        remedy = f"name the code that makes the module, as file.py:callable, and give --weights {spec}"
        return error(f"{spec} has weights, not the code of a model", remedy)
    if what == "MODEL" and suffix in OTHERS:
        remedy = "name a PyTorch module, as file.py:callable, or an ONNX file of the model"
        return error(f"{spec} is a model of {OTHERS[suffix]}, which cannot be compressed", remedy)
    if what == "MODEL" and os.path.isdir(os.path.expanduser(spec)):
        remedy = "name a folder that transformers saved with save_pretrained(), a file, or file.py:callable"
        return error(f"{spec} is a folder without a {hugging_face.CONFIG}", remedy)
    return error(f"{what} {spec!r} names no callable", FORM)


def load_model(spec: str | nn.Module, weights: str | Path | None = None, shapes: Shapes = None) -> nn.Module:
    """The model that ``spec`` names or is, with ``weights`` in it (:func:`load_weighted`)."""
    return load_weighted(spec, weights, shapes=shapes)[0]


def is_program(spec: Any) -> bool:
    """Whether ``spec`` names a file that has weights and computation: ONNX, or an exported program."""
    return isinstance(spec, (str, Path)) and Path(spec).suffix.lower() in FILES


def input_names(model: str | nn.Module) -> tuple[str, ...]:
    """What the inputs of a module, or of an ONNX file, are called where data name them; empty where nobody knows."""
    if isinstance(model, nn.Module):
        try:
            parameters = inspect.signature(model.forward).parameters.values()
        except (TypeError, ValueError):
            return ()
        return tuple(p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))
    import onnx

    from edgesdk.network.onnx_module.names import identifiers

    try:
        graph = onnx.load(model, load_external_data=False).graph
    except Exception:  # what is wrong with it is said where it is read; a program of PyTorch's has no such names
        return ()
    held = {tensor.name for tensor in graph.initializer}
    return tuple(identifiers(value.name for value in graph.input if value.name not in held))


def is_file(spec: Any) -> bool:
    """Whether ``spec`` names what a model is kept in whole: an ONNX file, an exported program, a folder of
    transformers."""
    return is_program(spec) or hugging_face.is_folder(spec)


def is_library_model(spec: Any) -> bool:
    """Whether ``spec`` names a model of a library, as ``timm:NAME``."""
    return isinstance(spec, str) and spec.startswith(timm_model.PREFIX)


def is_trained(notes: Sequence[str]) -> bool:
    """Whether a model came with weights, as far as is known, by the ``notes`` on how it was read."""
    return not any(note.startswith(NONE_GIVEN) for note in notes)


def load_weighted(
    spec: str | nn.Module, weights: str | Path | None = None, force: bool = False, shapes: Shapes = None
) -> tuple[nn.Module, tuple[str, ...]]:
    """The model that ``spec`` names or is, with ``weights`` in it, in evaluation mode; and what was done to read them.

    ``spec`` is ``file.py:callable``, ``package.module:callable``, an ONNX file, a ``.pt2`` of ``torch.export.save``,
    ``timm:NAME`` or a folder of transformers; ``shapes`` are those of a file's inputs, without the batch, where it
    leaves axes free.

    ``weights`` are a file as :func:`edgesdk.network.checkpoints.fill` takes it; nothing in it is executed. A module
    given as such is changed in place. Raises ``ModelError`` for a ``spec`` that makes no ``nn.Module``, and for weights
    that cannot be read, do not fit (unless ``force`` allows that some are missing), or are not finite.
    """
    own = True  # as far as is known: what comes without code of the user's says by its card whether it is trained
    if is_library_model(spec):
        model: Any = timm_model.read(str(spec))
    elif hugging_face.is_folder(spec):
        model = hugging_face.read(Path(os.path.expanduser(spec)), weights is not None, force)  # type: ignore[arg-type]
    elif is_program(spec):
        model = _read(Path(os.path.expanduser(spec)), shapes)  # type: ignore[arg-type]
    else:
        model, own = _made(spec) if isinstance(spec, str) else (spec, True)
    if not isinstance(model, nn.Module):
        made = f"MODEL {spec} returned" if isinstance(spec, str) else "the model is"
        raise ModelError(f"{made} an object of type {type(model).__name__}", "it must be a torch.nn.Module")
    model = unwrapped(model)
    if lazy := [name for name, value in model.named_parameters() if is_lazy(value)]:
        raise ModelError(f"the model has parameters without a shape: {listed(lazy)}", "run it once before returning it")
    notes: tuple[str, ...] = ()
    if weights is not None:
        stored = hugging_face.stored_names(model) if hugging_face.is_folder(spec) else {}
        notes = fill(model, Path(weights), force, stored)
    elif (card := card_of(model)) is not None:
        notes = card.notes
    elif not own and any(True for _ in model.parameters()):
        notes = (f"{NONE_GIVEN}: the model is taken as {spec} returns it",)
    _check_finite(model, str(weights) if weights is not None else "the model")
    return model.eval(), notes


def unwrapped(model: nn.Module) -> nn.Module:
    """``model`` without what torch.compile and data parallelism put around it.

    Raises ``ModelError`` for what is no module of PyTorch's own any more: TorchScript, one that PyTorch has quantized,
    and one without weights, on the device meta.
    """
    while True:
        inner = getattr(model, "_orig_mod", None)
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            inner = model.module
        if not isinstance(inner, nn.Module):
            break
        model = inner
    check_traceable(model)
    if bare := [name for name, value in model.named_parameters() if value.is_meta]:
        raise ModelError(f"{listed(bare)} are on the device meta, without values", "make the model on the CPU")
    return model


def _read(path: Path, shapes: Shapes) -> nn.Module:
    """The module that the file at ``path`` is."""
    if path.suffix.lower() == ".onnx":
        from edgesdk.network.onnx_module.read import read
    else:
        from edgesdk.network.exported_program import read
    return read(path, shapes)


def _made(spec: str) -> tuple[Any, bool]:
    """What the callable ``spec`` returns, and whether its weights are its own and no random ones."""
    with noticing_own_weights() as own:
        factory = load_callable(spec, "MODEL", ModelError)
        model = factory if isinstance(factory, nn.Module) else _called(factory, spec)
    return model, own.found


def _called(factory: Callable[..., Any], spec: str) -> Any:
    try:
        return factory()
    except EdgeSdkError:
        raise
    except (Exception, SystemExit) as error:
        fact = f"calling MODEL {spec} failed with {said(error)}"
        wanted = "it must return the model when called without arguments"
        own = "it fails by itself, before edgesdk has a part in it: mend it so that it returns the model"
        raise ModelError(fact, wanted if isinstance(error, TypeError) else own) from error


def _module(where: str, what: str, error: type[EdgeSdkError]) -> ModuleType:
    is_file = where.endswith(".py") or "/" in where or "\\" in where
    path = Path(os.path.expanduser(where))  # Path's own raises for the home of a user that there is not
    if is_file and not os.path.isfile(path):
        raise error(f"{what}: there is no file {where}", "check the path")
    try:
        with _imports_from(path.resolve().parent if is_file else Path.cwd()):
            try:
                return _executed(path.resolve()) if is_file else importlib.import_module(where)
            except RuntimeError as failure:
                if not torchvision.is_uncompiled(failure):
                    raise
                torchvision.import_torchvision()
                return _executed(path.resolve()) if is_file else importlib.import_module(where)
    except (Exception, SystemExit) as failure:
        if isinstance(failure, ModuleNotFoundError) and failure.name and (where + ".").startswith(failure.name + "."):
            raise error(f"{what}: there is no module {failure.name!r}", f"install it, or {FORM}") from None
        line = _line(failure, path) if is_file else ""
        fact = f"{what}: importing {where} failed with {said(failure)}{line}"
        raise error(fact, "make it import in Python first") from failure


def _executed(path: Path) -> ModuleType:
    """The module in one file, under a name that no other module has."""
    name = _name(path)
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


@dataclass(frozen=True)
class Imported:
    """Files of a user's that were imported by their path, for another process, which does so when it is sent this."""

    paths: tuple[str, ...]

    @classmethod
    def now(cls) -> Imported:
        """Those of this process."""
        loaded = [module for name, module in sys.modules.items() if name.startswith(OWN)]
        return cls(tuple(module.__file__ for module in loaded if module.__file__ is not None))

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        for path in map(Path, self.paths):
            if _name(path) not in sys.modules:
                with _imports_from(path.parent):
                    _executed(path)


def _name(path: Path) -> str:
    """What the module in that file is called here."""
    return f"{OWN}{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"


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
    trace, line = error.__traceback__, None
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path.resolve()):
            line = trace.tb_lineno
        trace = trace.tb_next
    return f" (line {line})" if line else ""


def _check_finite(model: nn.Module, source: str) -> None:
    """Raise ``ModelError`` for NaN or infinite parameters and running statistics, and for NaN in other buffers.

    Masks hold infinities on purpose.
    """
    learnt = [*model.named_parameters()]
    learnt += [(name, value) for name, value in model.named_buffers() if name.rpartition(".")[2] in STATISTICS]
    bad = [name for name, value in learnt if not torch.isfinite(value).all()]
    bad += [name for name, value in model.named_buffers() if name not in bad and torch.isnan(value).any()]
    if bad:
        raise ModelError(f"{source} has NaN or infinite weights: {listed(bad)}", "give the weights of a sound training")
