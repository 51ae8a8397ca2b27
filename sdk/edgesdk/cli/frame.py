"""What every command is: errors as one line on stderr, -q and -v, results alone on stdout, help without arguments."""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Sequence
from math import isfinite
from types import FrameType
from typing import Any, NoReturn

import click
from click.core import ParameterSource

from edgesdk.cli.streams import results_apart
from edgesdk.core.asked import asked_by
from edgesdk.core.errors import EdgeSdkError, UsageError

ENDING = (signal.SIGTERM, signal.SIGHUP)  # beside SIGINT, which Python makes an exception of
SIGNALLED = 128  # and the number of the signal: the exit code of what one ended
JSON = "--json"
GO_ON = "run it again to go on, what was measured and learnt is kept"
QUIET, VERBOSE, STAGE, TYPED = (f"edgesdk.{name}" for name in ("quiet", "verbose", "stage", "typed"))
"""Keys of a context's ``meta``."""


def _how_much() -> list[click.Parameter]:
    """The options that say how much is told; they may stand before a command's name and after it."""
    return [
        click.Option(["-q", "--quiet"], is_flag=True, help="No progress; of a result the verdict alone."),
        click.Option(["-v", "--verbose"], is_flag=True, help="Every detail, not only a verdict and a table."),
    ]


def _note_how_much(ctx: click.Context) -> None:
    for key, name in ((QUIET, "quiet"), (VERBOSE, "verbose")):
        ctx.meta[key] = ctx.params.pop(name) or ctx.meta.get(key, False)


def tell_command(ctx: click.Context) -> str:
    """The command line that asks for what ``ctx`` does: what a file gave in place of flags, and what was typed."""
    names: list[str] = []
    at: click.Context | None = ctx
    while at is not None and at.parent is not None:
        names.insert(0, str(at.info_name))
        at = at.parent
    given = [
        part
        for param in ctx.command.params
        if param.name and ctx.get_parameter_source(param.name) is ParameterSource.DEFAULT_MAP
        for part in _spell(param, ctx.params[param.name], (ctx.default_map or {})[param.name])
    ]
    return shlex.join(["edgesdk", *names, *given, *ctx.meta[TYPED]])


def _check_finite(ctx: click.Context) -> None:
    """Refuse ``nan`` and ``inf``, which ``float`` reads as numbers and which no comparison with a bound stops."""
    for param in () if ctx.resilient_parsing else ctx.command.params:
        value = ctx.params.get(param.name or "")
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, float) and not isfinite(part):
                raise click.BadParameter(f"{part} is not a finite number.", ctx, param)


def _spell(param: click.Parameter, value: Any, written: str | Sequence[str]) -> list[str]:
    """A parameter as it is typed: of one that is on or off ``value`` says which, of others how it is ``written``."""
    parts = [written] if isinstance(written, str) else [*written]
    if not isinstance(param, click.Option):
        return parts
    if param.is_flag:
        return [(param.opts if value else param.secondary_opts)[-1]]
    return [word for part in parts for word in (max(param.opts, key=len), part)]


class Command(click.Command):
    """A command that keeps its results apart from all else that is printed."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params: list[click.Parameter] = [*self.params, *_how_much()]

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        typed = [*args]
        context = super().make_context(info_name, args, parent, **extra)
        _check_finite(context)
        context.meta[TYPED] = typed
        return context

    def invoke(self, ctx: click.Context) -> Any:
        command = tell_command(ctx)
        _note_how_much(ctx)
        with results_apart(), asked_by(command):
            try:
                return super().invoke(ctx)
            except (EdgeSdkError, click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
                raise
            except Exception as error:
                from edgesdk.cli.unexpected import explained

                raise explained(error, ctx.command_path, ctx.meta.get(STAGE)) from error


class Commands(click.Group):
    """Commands, or groups of them. Alone, without arguments, it prints its help."""

    command_class: type[click.Command] | None = Command
    group_class: type[click.Group] | type[type] | None = type

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params: list[click.Parameter] = [*self.params, *_how_much()]

    def invoke(self, ctx: click.Context) -> Any:
        _note_how_much(ctx)
        return super().invoke(ctx)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing:
            click.echo(ctx.get_help())
            ctx.exit()
        return super().parse_args(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Each command with its first sentence, whole."""
        rows = [(name, command.get_short_help_str(limit=1000)) for name, command in sorted(self.commands.items())]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def main(self, *args: Any, **kwargs: Any) -> Any:
        kwargs["standalone_mode"] = False
        as_json = JSON in (args[0] if args and args[0] is not None else kwargs.get("args") or sys.argv[1:])
        _listen()
        try:
            return sys.exit(super().main(*args, **kwargs) or 0)
        except EdgeSdkError as error:
            _end(error, as_json)
        except click.ClickException as error:
            _end(UsageError(error.format_message().rstrip("."), "see --help"), as_json)
        except (KeyboardInterrupt, click.Abort) as error:  # click makes the one of the other
            _end(Interrupted.by(error.__cause__ if isinstance(error, click.Abort) else error), as_json)
        except BrokenPipeError:
            sys.stderr.close()
            sys.exit(1)


class Interrupted(EdgeSdkError):
    """A signal ended the command."""

    kind = "interrupted"
    exit_code: int = SIGNALLED + signal.SIGINT

    @classmethod
    def by(cls, cause: BaseException | None) -> Interrupted:
        """What is said of ``cause``, which ended the command."""
        if not isinstance(cause, Signalled):
            return cls("interrupted", GO_ON)
        error = cls(f"ended by {cause.signal.name}", GO_ON)
        error.exit_code = SIGNALLED + cause.signal
        return error


class Signalled(KeyboardInterrupt):
    """A signal other than Ctrl-C is to end the command: whatever cleans up after that does so after this."""

    def __init__(self, by: signal.Signals) -> None:
        super().__init__(by.name)
        self.signal: signal.Signals = by


def _listen() -> None:
    """Have what was begun cleaned up where a signal ends the command, unless it was started so as to ignore that."""
    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _raise)


def _raise(number: int, _: FrameType | None) -> NoReturn:
    for other in ENDING:  # what cleans up is not to be ended by another
        signal.signal(other, signal.SIG_IGN)
    raise Signalled(signal.Signals(number))


def _end(error: EdgeSdkError, as_json: bool) -> NoReturn:
    """End with ``error`` as one line on stderr and, where the results are JSON, as a document in their place."""
    click.echo(f"edgesdk: {error}", err=True)
    if as_json:
        from edgesdk.cli.documents import Failure
        from edgesdk.cli.streams import emit_json

        emit_json(Failure.of(error))
    sys.exit(error.exit_code)


def told(key: str) -> bool:
    """Whether the command at work was given ``QUIET`` or ``VERBOSE``."""
    context = click.get_current_context(silent=True)
    return bool(context is not None and context.meta.get(key))
