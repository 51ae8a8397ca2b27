"""What begins a project: three questions, each with what was found, and a file of the answers; or a worked example."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from edgesdk.cli.frame import Command
from edgesdk.cli.making import read_budget
from edgesdk.cli.names import PLACE_NAME, TARGET
from edgesdk.cli.project import FILE, SECTIONS, read_project
from edgesdk.cli.shared import free
from edgesdk.cli.streams import emit
from edgesdk.core.errors import EdgeSdkError, UsageError
from edgesdk.core.serialize import write

EXAMPLE, NONE = "the built-in example", "none"
BUDGET = ("latency", "peak_memory", "size", "energy", "max_drop", "accuracy")


@click.command(cls=Command)
@click.argument("model", required=False)
@click.option("--weights", type=click.Path(path_type=Path), help="Safetensors, a state dict, or a checkpoint.")
@click.option("--data", help=".npz with x and y, a folder with a sub-folder per class, or file.py:callable.")
@click.option("--target", **TARGET, help="The kind of device: see `edgesdk targets`.")
@click.option("--device", **PLACE_NAME, help="One of the inventory, or pool:NAME: see `edgesdk device list`.")
@click.option("--latency", help="Upper bound: 2ms, or 0.5x of the dense model.")
@click.option("--peak-memory", help="Upper bound on what the model adds to the process, like 8MB.")
@click.option("--size", help="Upper bound on the model file, like 200kB.")
@click.option("--energy", help="Upper bound on a run beyond idle, like 5mJ: of a device with a meter.")
@click.option("--max-drop", type=float, help="Upper bound on the drop of the metric, in points.")
@click.option("--accuracy", type=float, help="Lower bound on the metric itself, like 91.5.")
@click.option("--force", is_flag=True, help="Replace an edgesdk.toml that is there.")
def init(force: bool, **options: Any) -> None:
    """Begin a project: ask for the model, the board and the budget, and write edgesdk.toml.

    What is given is not asked for. The other commands read the file, so that `edgesdk deploy` is all that is left.
    """
    from edgesdk.devices.inventory import POOL
    from edgesdk.workflows.init import check_model, check_there, find_data, find_models, find_places, find_weights

    path, here = free(Path(FILE), force, "another folder"), Path()
    for name, check in (("model", check_model), ("data", check_there), ("weights", check_there)):
        if options[name] not in (None, EXAMPLE):
            check(str(options[name]))
    if options["model"] is None:
        models = find_models(here)
        default = models[0] if models else EXAMPLE
        options["model"] = _ask("which model", "MODEL", [*models, EXAMPLE], default, check=check_model)
    if options["model"] == EXAMPLE:
        options["model"] = None
    elif options["data"] is None:
        data = find_data(here)
        first = data[0] if len(data) == 1 else None
        options["data"] = _ask("with which data", "--data", data, first, check=check_there)
    if options["weights"] is None and options["model"] is not None and ":" in options["model"]:
        if weights := find_weights(here):
            chosen = _ask("with which weights", "--weights", [*weights, NONE], weights[0], check=check_there)
            options["weights"] = None if chosen == NONE else chosen
    if options["target"] is None and options["device"] is None:
        boards = {place.name: place for place in find_places()}

        def place_of(answer: str) -> dict[str, str | None]:
            board = boards.get(answer)
            if "://" in answer or answer.startswith(POOL) or (board is not None and board.device):
                return {"device": answer, "target": None if board is None else board.target}
            return {"target": answer}

        chosen = _ask(
            "on which board", "--target or --device", [*boards], next(iter(boards)),
            [place.said for place in boards.values()], lambda answer: _check_place(**place_of(answer)),
        )  # fmt: skip
        options |= place_of(chosen)
    _check_place(options["target"], options["device"])
    if all(options[name] is None for name in BUDGET):
        options["latency"] = _ask(
            "latency of at most", "--latency", ["0.5x"], "0.5x", ["half of the dense model's"],
            lambda answer: _check_budget({**options, "latency": answer}),
        )  # fmt: skip
    _check_budget(options)  # what is no bound is not written
    text = _written(options)
    write(path, text)
    read_project(path)  # what was written is what is read
    emit(text)
    emit(f"{FILE} has it: edit it as you like, and run: edgesdk deploy")


@click.command(cls=Command)
@click.argument("name", required=False)
@click.argument("folder", required=False, type=click.Path(path_type=Path))
def examples(name: str | None, folder: Path | None) -> None:
    """Copy a worked example: a network, its data, how it is trained and deployed.

    Without NAME, the examples there are. FOLDER is NAME where it is not given.
    """
    from edgesdk.workflows import examples as worked

    if name is None:
        there = worked.examples()
        width = max(map(len, there))
        for each, said in there.items():
            emit(f"{each:<{width}}  {said}")
        return
    made = worked.copy_example(name, folder or Path(name))
    emit(f"{made} has it: see {made / worked.PAGE}")


def _check_place(target: str | None = None, device: str | None = None) -> None:
    from edgesdk.core.target import target as find_target
    from edgesdk.devices.pools import find_place

    if device is not None:
        find_place(device)
    if target is not None:
        find_target(target)


def _check_budget(options: Mapping[str, Any]) -> None:
    read_budget({"percentile": None, **{name: options[name] for name in BUDGET}})


def _ask(
    question: str, flag: str, found: Sequence[str], default: str | None, said: Sequence[str] = (),
    check: Callable[[str], None] = lambda answer: None,
) -> str:  # fmt: skip
    """The answer to ``question``: one of what was ``found``, by its number or name, or any other that passes ``check``.

    An answer for which that raises an error is told so, and asked for again. Where nobody is there to answer that is
    ``UsageError`` with what was found.
    """
    if not sys.stdin.isatty():
        there = f"found: {', '.join(found)}" if found else "nothing was found that could be meant"
        raise UsageError(f"no answer to {question!r} ({there})", f"give {flag}")
    for number, name in enumerate(found, 1):
        click.echo(f"  {number}  {name}{f'  ({said[number - 1]})' if said else ''}", err=True)
    while True:
        shown = default is not None
        answer = str(click.prompt(f"{question}?", default=default or "", show_default=shown, err=True)).strip()
        number = int(answer) if answer.isascii() and answer.isdecimal() else 0
        answer = found[number - 1] if 0 < number <= len(found) else answer
        if answer in (EXAMPLE, NONE) and answer in found:
            return answer
        try:
            if not answer:
                raise UsageError("no answer, and none stands for it", "give one; Ctrl-C ends without a file")
            check(answer)
        except EdgeSdkError as error:
            click.echo(f"  {error}", err=True)
        else:
            return answer


def _written(options: dict[str, Any]) -> str:
    """The file: each section that has something, with its keys in their order."""
    parts: list[str] = []
    for section, keys in SECTIONS.items():
        given = {key: options[name] for key, name in keys.items() if options.get(name) is not None}
        lines = [f"{key} = {_as_toml(value)}" for key, value in given.items()]
        if lines:
            parts.append("\n".join([f"[{section}]", *lines]))
    return "\n\n".join(parts) + "\n"


def _as_toml(value: Any) -> str:
    return str(value) if isinstance(value, float) else json.dumps(str(value), ensure_ascii=False)
