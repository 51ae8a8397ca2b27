"""A ``.pt2`` file of ``torch.export.save`` as a module that trains."""

from __future__ import annotations

import json
import logging
import os
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from edgesdk.core.errors import ModelError, UsageError
from edgesdk.core.graph import Shapes
from edgesdk.core.graph import Tensor as Input
from edgesdk.core.wording import said
from edgesdk.network.inert import find_code
from edgesdk.network.source import meta_of

aten: Any = torch.ops.aten
PICKLED = ("custom_obj_", "opaque_obj_")  # how constants are named that hold code
FORCED = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"  # PyTorch's own: nothing but tensors is unpickled
SIZED = {aten.view.default: 1, aten.reshape.default: 1, aten._unsafe_view.default: 1, aten.expand.default: 1}
EXAMPLE = "example"  # where in the module's ``meta`` the shapes of its inputs stand


def read(path: Path, shapes: Shapes = None) -> fx.GraphModule:
    """The module that the exported program in the file ``path`` is, for any number of samples.

    Weights and inputs keep their names. Nothing in the file is executed. ``shapes`` must be the program's own. Raises
    ``ModelError`` for what is no such file, was made by a PyTorch that this one does not read, or holds code;
    ``UsageError`` for other shapes.
    """
    warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)  # PyTorch's, of each copy of what it exported
    program = _loaded(path)
    module = program.module(check_guards=False)
    for hook in list(module._forward_pre_hooks):  # they hold the sizes of the batch that it was exported with
        del module._forward_pre_hooks[hook]
    clean = fx.GraphModule(module, module.graph)
    _free_batch(clean)
    inputs = _inputs(program)
    clean.meta[EXAMPLE] = inputs
    _check_shapes(path, inputs, shapes)
    return clean.eval()


def example_of(module: Any) -> tuple[Input, ...] | None:
    """The inputs of a module that was read here, without the batch, where the file tells their sizes."""
    return meta_of(module).get(EXAMPLE)


def shapes_of(model: Any, given: Any = None) -> Any:
    """The inputs that ``model`` takes: those ``given``, or as the file says that it was read from.

    Raises ``UsageError`` where neither does.
    """
    shapes = example_of(model) if given is None else given
    if shapes is None:
        raise UsageError("a module needs a shape", "give it without the batch, as in --shape 3x224x224, or a batch")
    return shapes


def _loaded(path: Path) -> ExportedProgram:
    if not path.is_file():
        raise ModelError(f"there is no file {path}", "check the path")
    try:
        with zipfile.ZipFile(path) as archive:
            whole = archive.infolist()[:1] and archive.infolist()[0].header_offset == 0  # else it is one within
            names = [name.rpartition("/")[2] for name in archive.namelist()] if whole else []
            is_program = any("/models/" in name for name in archive.namelist())
            told = [_json(archive, name) for name in archive.namelist() if name.endswith(".json")]
    except Exception:  # zipfile has many kinds for what is damaged
        names, told, is_program = [], [], False
    if not is_program and "data.pkl" not in names:
        raise ModelError(f"{path} is no exported program, or is cut short", "save it with torch.export.save")
    if not is_program:
        fact = f"{path} is what torch.save or torch.jit.save wrote, not an exported program"
        raise ModelError(fact, "export the module with torch.export.save, or name its code and give --weights")
    if any(name.startswith(PICKLED) for name in names):
        fact = f"{path} holds objects of Python, which would have to be executed"
        raise ModelError(fact, "export the model without them, or name its module as file.py:callable")
    if (code := find_code(told)) is not None:
        fact = f"{path} holds what would be executed as code, {code}"
        raise ModelError(fact, "trust no file from there: torch.export.save writes none like it")
    made_by = _torch_of(told)
    with _tensors_alone(), _told() as causes, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return torch.export.load(path)
        except Exception as error:  # PyTorch raises many kinds
            cause, by = said(next(iter(causes), error)), f", and was saved by {made_by}" if made_by else ""
            fact = f"{path} cannot be read by PyTorch {torch.__version__} ({cause}){by}"
            raise ModelError(fact, "save it with torch.export.save of this PyTorch, or an older one") from None


def _json(archive: zipfile.ZipFile, name: str) -> Any:
    try:
        return json.loads(archive.read(name))
    except (ValueError, RecursionError):
        return None  # which PyTorch cannot read either


def _torch_of(told: list[Any]) -> str:
    """Which PyTorch wrote the program, where that is not this one; "" where it does not say."""
    versions = [
        document["torch_version"] for document in told if isinstance(document, dict) and "torch_version" in document
    ]
    return f"PyTorch {versions[0]}" if versions and versions[0] != torch.__version__ else ""


@contextmanager
def _told() -> Iterator[list[BaseException]]:
    """The errors that PyTorch logs while it reads a program, which say more than the one that it raises."""
    errors: list[BaseException] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.exc_info and record.exc_info[1] is not None:
                errors.append(record.exc_info[1])

    logger, handler = logging.getLogger("torch.export"), Kept()
    spreads = logger.propagate
    others = logger.handlers[:]
    logger.handlers[:] = [handler]
    logger.propagate = False
    try:
        yield errors
    finally:
        logger.handlers[:], logger.propagate = others, spreads


@contextmanager
def _tensors_alone() -> Iterator[None]:
    """Let PyTorch unpickle tensors, and nothing else."""
    before = os.environ.get(FORCED)
    os.environ[FORCED] = "1"
    try:
        yield
    finally:
        del os.environ[FORCED]
        if before is not None:
            os.environ[FORCED] = before


def _free_batch(module: fx.GraphModule) -> None:
    """Let stated sizes that are the batch's, of a program that was exported for one sample, be as many as there are."""
    inputs = [node for node in module.graph.nodes if node.op == "placeholder"]
    values = [node.meta.get("val") for node in inputs]
    if not all(isinstance(value, Tensor) and value.dim() and value.shape[0] == 1 for value in values):
        return
    for node in list(module.graph.nodes):
        place = SIZED.get(node.target)
        source = node.args[0] if place is not None else None
        value = getattr(source, "meta", {}).get("val")
        if place is None or not isinstance(value, Tensor) or not value.dim() or value.shape[0] != 1:
            continue
        sizes = list(node.args[place])
        if sizes and sizes[0] == 1:
            with module.graph.inserting_before(node):
                batch = module.graph.call_function(aten.sym_size.int, (inputs[0], 0))
            node.update_arg(place, [batch, *sizes[1:]])
    module.recompile()


def _inputs(program: ExportedProgram) -> tuple[Input, ...] | None:
    """The inputs without the batch; ``None`` where the file does not tell of each."""
    names = [node.name for node in program.graph.nodes if node.op == "placeholder"]
    user = [name for name in names if name in program.graph_signature.user_inputs]
    values = [node.meta.get("val") for node in program.graph.nodes if node.name in user]
    if program.example_inputs is not None:
        values = [leaf for leaf in pytree.tree_leaves(program.example_inputs) if isinstance(leaf, Tensor)]
    if len(values) != len(user) or not all(isinstance(value, Tensor) and value.dim() for value in values):
        return None
    return tuple(
        Input(name, tuple(int(size) for size in value.shape[1:]), str(value.dtype).removeprefix("torch."))
        for name, value in zip(user, values, strict=True)
    )


def _check_shapes(path: Path, inputs: tuple[Input, ...] | None, shapes: Shapes) -> None:
    """Raise ``UsageError`` for shapes that are not those that the program was exported with."""
    if shapes is None or inputs is None:
        return
    if not isinstance(shapes, dict):
        given = [shapes] if all(isinstance(side, int) for side in shapes) else list(shapes)
        shapes = {
            getattr(shape, "name", "") or spec.name: getattr(shape, "shape", shape)  # type: ignore[misc]
            for shape, spec in zip(given, inputs, strict=False)
        }
    own = {spec.name: spec.shape for spec in inputs}
    for name, shape in shapes.items():  # type: ignore[union-attr]
        if name not in own:
            raise UsageError(f"{path.name} has no input {name}", f"it has {', '.join(own)}")
        if tuple(shape) != own[name] and tuple(shape)[1:] != own[name]:
            raise UsageError(f"{path.name} was exported with {name} of shape {own[name]}", "export it with that shape")
