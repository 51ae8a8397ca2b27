"""The command line and Python call the same thing the same, and have the same defaults."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import running

import edgesdk
from edgesdk.cli import main
from edgesdk.cli.frame import QUIET, VERBOSE, told
from edgesdk.core.budget import Budget
from edgesdk.core.errors import UsageError
from edgesdk.data.preprocessing import Preprocessing
from edgesdk.devices import inventory, pools
from edgesdk.devices.inventory import Device

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "deploy": edgesdk.deploy, "search": edgesdk.search, "stages": edgesdk.stages, "benchmark": edgesdk.benchmark,
    "gate": edgesdk.gate, "sweep": edgesdk.sweep, "verify": edgesdk.verify, "diff": edgesdk.diff,
    "estimate": edgesdk.estimate,
    "calibrate": edgesdk.calibrate, "report": edgesdk.report,
    "prepare sparsify": edgesdk.sparsify, "prepare transfer": edgesdk.transfer, "prepare ensemble": edgesdk.ensemble,
    "device install": edgesdk.install, "device rollback": edgesdk.rollback,
    "device add": inventory.add, "device remove": inventory.remove,
    "device pool": pools.add_pool,
    "export": edgesdk.export_plan,  # `edgesdk.export` is the package that has the exporters
}  # fmt: skip
TOLD_ELSEWHERE = {
    "targets": "edgesdk.core.target.targets and target",
    "doctor": "about this machine, for people",
    "init": "asks questions, and writes a file that the shell's commands read",
    "examples": "copies files, for people to begin from",
    "device list": "edgesdk.devices.inventory.devices",
    "device probe": "a call of the agent",
    "agent build": "for those who have a transport of their own",
}
OF_THE_SHELL = {
    "as_json",
    "quiet",
    "verbose",
    "junit",
    "summary",
    "csv",
    "front",
    "opens",
}  # how results are printed
SHOWN = {"estimate": {"per_layer"}}  # of one command: Python has it all
OUT = ("search", "sweep")  # of the shell write their result to --out: Python has the plan or front itself
OF_PYTHON = {"tell", "share"}  # a function that is told how far it is; a part of a calibration, for tests
WRITTEN = {("estimate", "shapes"): "example"}  # by the shell's word Python's: a shell has no batch to give
PIXELS = {field.name for field in dataclasses.fields(Preprocessing)}  # in Python fields of ``preprocess``
UNITS = ("_ms", "_ratio", "_bytes", "_mj")  # Python says the unit of a bound in its name, the shell in its value
BOUNDS = {re.sub(f"({'|'.join(UNITS)})$", "", field.name) for field in dataclasses.fields(Budget)}
DEFAULTS = {  # why those of the two differ
    "target": "the shell takes the --device's own", "out": "a path or a text",
    "out_dir": "the shell calls it after --out",
}  # fmt: skip


def commands(group: click.Group = main, before: str = "") -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{before}{name} ")
        else:
            yield before + name, command


COMMANDS = dict(commands())


def test_every_command_has_its_function_or_a_reason() -> None:
    assert set(COMMANDS) == set(FUNCTIONS) | set(TOLD_ELSEWHERE)


def python_words(function: Callable[..., Any]) -> set[str]:
    """What ``function`` takes; a device, a budget and a preprocessing by their fields."""
    words = set(inspect.signature(function).parameters) - OF_PYTHON
    if function is inventory.add:
        words = words - {"device"} | {field.name for field in dataclasses.fields(Device)}
    return words


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_a_command_takes_its_function_takes_by_the_same_name(name: str) -> None:
    words = python_words(FUNCTIONS[name])
    own = {WRITTEN.get((name, str(option.name)), str(option.name)) for option in COMMANDS[name].params} - OF_THE_SHELL
    own -= SHOWN.get(name, set()) | ({"out"} if name in OUT else set())
    if "preprocess" in words:
        own -= PIXELS
    if "budget" in words:
        assert own >= BOUNDS
        own = own - BOUNDS | {"budget"}
    assert own == words


SPELT = {"shapes": "--shape", "clock_ghz": "--clock"}
"""Options that are repeated, or whose unit stands beside them."""


@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_option_is_called_as_its_parameter_and_has_its_default(name: str) -> None:
    parameters = inspect.signature(FUNCTIONS[name]).parameters
    for option in COMMANDS[name].params:
        if not isinstance(option, click.Option) or option.name in OF_THE_SHELL:
            continue
        assert SPELT.get(str(option.name), f"--{str(option.name).replace('_', '-')}") in option.opts
        parameter = parameters.get(str(option.name))
        if parameter is None or parameter.default is inspect.Parameter.empty or option.name in DEFAULTS:
            continue
        ours = option.to_info_dict()["default"]
        if isinstance(parameter.default, str) and ours is not None:
            ours = str(ours)
        assert ours == parameter.default or (not ours and option.multiple), option.name


def test_how_much_is_told_may_stand_before_a_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[bool, bool]] = []

    def look(target: Any) -> Any:
        seen.append((told(QUIET), told(VERBOSE)))
        raise UsageError("seen", "look")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("edgesdk.price.profile.profile", look)
    for words in ("-q targets x86", "targets x86 -q", "-v targets -q x86", "targets x86"):
        assert running.edgesdk(*words.split()).line == "edgesdk: seen: look"
    assert seen == [(True, False), (True, False), (True, True), (False, False)]
