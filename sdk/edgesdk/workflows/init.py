"""What a folder and an inventory have to begin with: models, weights, data, and where a model could run."""

from __future__ import annotations

import ast
import importlib.util
import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgesdk.core.errors import EdgeSdkError, UsageError
from edgesdk.core.target import targets
from edgesdk.data.folders import SUFFIXES
from edgesdk.devices.inventory import devices
from edgesdk.devices.reach import reach

MODELS, WEIGHTS = (".onnx", ".pt2"), (".safetensors", ".pt", ".pth", ".ckpt")
LIBRARY = "timm:"
FORMS = "name an .onnx or .pt2 file, file.py:callable, package.module:callable, timm:NAME, or a folder of transformers"
SKIPPED = ("test_", "conftest", "setup")  # how files begin that hold no model to deploy


@dataclass(frozen=True)
class Place:
    """Where a model could run: a device of the inventory or a kind of device, and what is known of it in words.

    ``target`` is the kind that a device answered to be, where the inventory does not say one.
    """

    name: str
    said: str
    device: bool = False
    target: str | None = None


def find_models(folder: Path) -> list[str]:
    """Models in ``folder``: files that are one, and callables of Python files that look as if they gave one.

    Nothing is run: a class without arguments to be given that derives from a ``Module``, a function without such
    arguments that is annotated to return one or that returns such a class.
    """
    models = [path.name for path in _files(folder) if path.suffix.lower() in MODELS]
    for path in _files(folder):
        if path.suffix == ".py" and not path.name.startswith(SKIPPED):
            models += [f"{path.name}:{name}" for name in _callables(path)]
    return models


def find_weights(folder: Path) -> list[str]:
    """Files in ``folder`` that have weights, by how they are called."""
    return [path.name for path in _files(folder) if path.suffix.lower() in WEIGHTS]


def find_data(folder: Path) -> list[str]:
    """Data in ``folder``: .npz files, and folders with images in two sub-folders or more, one for a class."""
    arrays = [path.name for path in _files(folder) if path.suffix.lower() == ".npz"]
    return arrays + [path.name for path in sorted(folder.iterdir()) if path.is_dir() and _has_classes(path)]


def find_places() -> Iterator[Place]:
    """The devices of the inventory, each asked whether it answers, then the kinds that this machine could be, then all
    others."""
    for device in devices().values():
        said = device.target or "of no kind that was said"
        try:
            with reach(device) as agent:
                alike = find_alike(agent.call("probe"))
            known = device.target is not None
            like = "" if alike is None or alike == device.target else f", says it is a {alike}"
            yield Place(device.name, f"{said}, answers{like}", device=True, target=None if known else alike)
        except EdgeSdkError as error:
            yield Place(device.name, f"{said}, does not answer: {error.fact}", device=True)
    machine = platform.machine()
    known = sorted(targets().values(), key=lambda target: not (target.measured and target.architecture == machine))
    for target in known:
        here = "this machine, measured" if target.measured and target.architecture == machine else "predicted"
        yield Place(target.name, f"{target.title}: {here} without a device")


def find_alike(facts: Mapping[str, Any]) -> str | None:
    """The kind of device that a board is by the name which it gives itself; ``None`` where it is none that is known."""
    return next((target.name for target in targets().values() if target.boards and target.differs(facts) is None), None)


def check_model(spec: str) -> None:
    """Raise ``UsageError`` where ``spec`` names no file that is there, or is not written as a model is.

    Nothing is run, so that what the code itself does is seen where it is deployed.
    """
    if not spec.startswith(LIBRARY):
        check_there(spec, FORMS)


def check_there(spec: str, remedy: str = "name a file or a folder, or file.py:callable") -> None:
    """Raise ``UsageError`` where ``spec`` is neither what is there nor a callable of a file or module that is."""
    where, colon, name = spec.rpartition(":")
    if is_there(spec):
        return
    if not (colon and where and name) or where.endswith(".py"):
        if not is_there(where or spec):
            raise UsageError(f"there is no file {where or spec!r}", remedy)
    elif not where.replace(".", "").isidentifier() or not _is_module_here(where.partition(".")[0]):
        raise UsageError(f"there is no module {where!r}", remedy)


def is_there(path: str) -> bool:
    return os.path.exists(os.path.expanduser(path))


def _is_module_here(name: str) -> bool:
    """Whether ``import name`` would find something, from this folder on."""
    try:
        return is_there(name) or is_there(f"{name}.py") or importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))


def _has_classes(folder: Path) -> bool:
    def has_images(path: str) -> bool:
        with os.scandir(path) as entries:
            return any(Path(entry.name).suffix.lower() in SUFFIXES for entry in entries)

    with os.scandir(folder) as entries:
        return sum(entry.is_dir() and has_images(entry.path) for entry in entries) > 1


def _callables(path: Path) -> list[str]:
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return []
    modules: dict[str, bool] = {}  # the classes that are modules: whether one can be made without arguments
    names: list[str] = []
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and any(_is_module(base, modules) for base in node.bases):
            made = [part.args for part in node.body if isinstance(part, ast.FunctionDef) and part.name == "__init__"]
            modules[node.name] = all(_needs_nothing(args, 1) for args in made)
        elif isinstance(node, ast.FunctionDef) and _needs_nothing(node.args, 0) and _gives_module(node, modules):
            names.append(node.name)
    return names + [name for name, alone in modules.items() if alone]


def _is_module(node: ast.expr, modules: dict[str, bool]) -> bool:
    name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
    return name in ("Module", "Sequential") or name in modules


def _needs_nothing(args: ast.arguments, own: int) -> bool:
    positional = len(args.posonlyargs) + len(args.args) - own
    return positional <= len(args.defaults) and all(default is not None for default in args.kw_defaults)


def _gives_module(function: ast.FunctionDef, modules: dict[str, bool]) -> bool:
    if function.returns is not None and _is_module(function.returns, modules):
        return True
    returned = [node.value for node in ast.walk(function) if isinstance(node, ast.Return)]
    return any(isinstance(value, ast.Call) and _is_module(value.func, modules) for value in returned)
