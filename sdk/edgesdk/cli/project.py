"""What stands in a project's ``edgesdk.toml``, in place of flags that are not given."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from edgesdk.cli.frame import Command
from edgesdk.core.errors import UsageError

FILE, RECOVER = "edgesdk.toml", "recover"
SECTIONS: Mapping[str, Mapping[str, str]] = {
    "model": {"source": "model", "weights": "weights", "shape": "shapes"},
    "data": {
        "source": "data",
        **{name: name for name in ("metric", "output", "loss", "preprocess", "mean", "std")},
        **{name: name.replace("-", "_") for name in ("input-range", "image-size", "channel-order", "sample-rate")},
        "pictures": "pictures",
    },
    "target": {
        "name": "target",
        **{name: name for name in ("device", "runtime", "precision", "candidate", "threads")},
    },
    "budget": {
        name: name.replace("-", "_")
        for name in ("latency", "percentile", "peak-memory", "size", "energy", "max-drop", "accuracy", "time", "tries")
    },
    RECOVER: {"schedule": "recover", "epochs": "epochs", "train-on": "train_on", "jobs": "jobs", "cluster": "cluster"},
}
"""Each section's keys, and the parameter of a command that each stands for."""
SWITCHES = ("pictures",)
"""Keys that are true or false."""
SEVERAL = (
    "model", "weights", "shapes", "mean", "std", "input_range", "target", "device", "runtime", "precision", "candidate",
    "threads",
)  # fmt: skip
"""Parameters of which a command may take several values: `sweep` compares targets, runtimes and models."""
VOID: Mapping[str, Sequence[str]] = {
    "model": ("weights", "shapes"), "target": ("device",), "device": ("target",), "measurements": ("device",)
}  # fmt: skip
"""What the file says that a flag makes void beside its own: it belongs to another model, or another place."""


def read_project(path: Path) -> dict[str, Any]:
    """The values of the file at ``path`` by the parameter that each stands for. Raises ``UsageError``."""
    from edgesdk.core.serialize import loads_toml

    try:
        content = loads_toml(path.read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror})", "mend it, or take it away") from None
    except ValueError as error:
        raise UsageError(f"{path} is no TOML: {error}", "mend it, or take it away") from None
    values: dict[str, Any] = {}
    for section, entries in content.items():
        keys = SECTIONS.get(section)
        if keys is None:
            raise _unknown(f"{path} has a section [{section}]", section, SECTIONS)
        if not isinstance(entries, dict):
            raise UsageError(f"{section} in {path} is no section", f"write [{section}] above its keys")
        for name, value in entries.items():
            spelled = name.replace("_", "-")
            if spelled not in keys:
                raise _unknown(f"[{section}] in {path} has {name!r}", spelled, keys)
            if not (isinstance(value, bool) if spelled in SWITCHES else _is_plain(value)):
                told = "neither true nor false" if spelled in SWITCHES else "neither a text nor a number"
                raise UsageError(f"{name} in {path} is {told}", "write it as the flag takes it")
            if isinstance(value, list) and keys[spelled] not in SEVERAL:
                raise UsageError(f"{name} in {path} has several values", "give it one")
            values[keys[spelled]] = value
    return values


def _is_plain(value: Any) -> bool:
    parts = value if isinstance(value, list) else [value]
    return all(isinstance(part, (str, int, float)) and not isinstance(part, bool) for part in parts)


def _unknown(fact: str, name: str, names: Mapping[str, Any]) -> UsageError:
    close = difflib.get_close_matches(name, names, 1)
    return UsageError(
        f"{fact}, which is not known", f"{f'{close[0]!r} may be meant; ' if close else ''}{_listed(names)}"
    )


def _listed(names: Mapping[str, Any]) -> str:
    return f"there are {', '.join(names)}"


class ModelCommand(Command):
    """A command about a project's model: what ``edgesdk.toml`` in the folder says holds where a flag says nothing.

    ``apart`` are parameters whose names mean something else here than there. A command about files that were
    made takes ``only`` some: those say the rest themselves.
    """

    def __init__(self, *args: Any, apart: Sequence[str] = (), only: Sequence[str] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.apart: Sequence[str] = apart
        self.only = only

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        path = Path(FILE)
        asks = extra.get("resilient_parsing") or {"--help", "-h"} & {*args}  # for help, or what completes a word
        says = self._takes(read_project(path)) if path.is_file() and not asks else {}
        try:
            context = super().make_context(info_name, [*args], parent, **{"default_map": says, **extra})
            void = {name for flag in VOID if was_given(flag, context) for name in VOID[flag]}
            if void.isdisjoint(says):
                return context
            says = {name: value for name, value in says.items() if name not in void}
            return super().make_context(info_name, args, parent, **{"default_map": says, **extra})
        except click.BadParameter as error:
            raise _said_by_the_file(error) from None

    def _takes(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Of the file's values those that this command takes, as it takes them."""
        only = self.only
        params = {
            name: param for param in self.params if (name := param.name) is not None and (only is None or name in only)
        }
        apart = {*self.apart, *(() if RECOVER in params else SECTIONS[RECOVER].values())}
        fitting = {name: _fitting(value, params[name]) for name, value in values.items() if name in {*params} - apart}
        return {name: value for name, value in fitting.items() if value is not None}


def _fitting(value: Any, param: click.Parameter) -> Any:
    """``value`` as the parameter takes it: several for one that is repeated, ``None`` for several where it is not."""
    several: Sequence[Any] | None = value if isinstance(value, list) else None
    if param.multiple or param.nargs == -1:
        return [str(part) for part in (several if several is not None else [value])]
    if several is not None:
        return ",".join(map(str, several)) if param.name in ("mean", "std", "input_range") else None
    return str(value)


def _said_by_the_file(error: click.BadParameter) -> click.BadParameter:
    """``error``, which names the file where that gave the value."""
    context, param = error.ctx, error.param
    if context is None or param is None or param.name is None:
        return error
    if context.get_parameter_source(param.name) is not ParameterSource.DEFAULT_MAP:
        return error
    return click.BadParameter(f"{error.message.rstrip('.')} (in {FILE})", context, param, error.param_hint)


def was_given(name: str, context: click.Context | None = None) -> bool:
    """Whether the parameter was given on the command line, not by the file."""
    context = context or click.get_current_context()
    return context.get_parameter_source(name) is ParameterSource.COMMANDLINE
