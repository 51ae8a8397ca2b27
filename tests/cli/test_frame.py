"""Help, -q and -v, light imports, and errors that nobody foresaw."""

from __future__ import annotations

import errno
import os
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from running import Run

from edgesdk.cli import main
from edgesdk.workflows import verify

HEAVY = ("torch", "onnx", "onnxscript", "scipy", "highspy", "torch_pruning")


def every(group: Any = main, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    commands = []
    for name, command in group.commands.items():
        commands += every(command, (*path, name)) if hasattr(command, "commands") else [(*path, name)]
    return commands


@pytest.mark.parametrize("group", [(), ("device",), ("agent",), ("prepare",)])
def test_alone_a_group_prints_its_help(edgesdk: Run, group: tuple[str, ...]) -> None:
    done = edgesdk(*group)
    assert (done.code, done.err) == (0, "")
    assert done.out == edgesdk(*group, "--help").out
    commands = done.out.partition("Commands:")[2]
    assert done.out.startswith("Usage: edgesdk") and commands.count("\n") > 1 and "..." not in commands


@pytest.mark.parametrize("command", every(), ids=" ".join)
def test_every_command_takes_quiet_and_verbose(edgesdk: Run, command: tuple[str, ...]) -> None:
    said = edgesdk(*command, "--help").out
    assert "-q, --quiet" in said and "-v, --verbose" in said


def _spelled(param: click.Parameter, value: str) -> list[str]:
    return [max(param.opts, key=len), value] if isinstance(param, click.Option) else [value]


def list_floats() -> Iterator[tuple[tuple[str, ...], click.Command, click.Parameter]]:
    """Every parameter of every command that is a number with a fraction."""
    for path in every():
        command: Any = main
        for name in path:
            command = command.commands[name]
        for param in command.params:
            if isinstance(param.type, (type(click.FLOAT), click.FloatRange)):
                yield path, command, param


@pytest.mark.parametrize("value", ["nan", "inf", "-Infinity", "1e999"])
@pytest.mark.parametrize(
    ("path", "command", "param"), [pytest.param(*each, id=f"{each[0][-1]} {each[2].name}") for each in list_floats()]
)
def test_no_number_is_endless_or_none(
    path: tuple[str, ...], command: click.Command, param: click.Parameter, value: str
) -> None:
    needed = [word for each in command.params if each.required for word in _spelled(each, "9")]
    with pytest.raises(click.BadParameter, match=r"is not a finite number|is not in the range") as refused:
        command.make_context(path[-1], [*needed, *_spelled(param, value)])
    assert refused.value.param is param
    assert command.make_context(path[-1], [*needed, *_spelled(param, "0.5")]).params[str(param.name)] == 0.5


def test_what_a_file_says_is_finite_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "edgesdk.toml").write_text("[budget]\nmax-drop = nan\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(click.BadParameter, match=r"nan is not a finite number \(in edgesdk\.toml\)"):
        main.commands["deploy"].make_context("deploy", [])


def _fails_with(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(verify, "verify", failing)


def _file(line: str) -> Path:
    return Path(line.rpartition(" ")[2])


@pytest.mark.parametrize("error", [RuntimeError("view size is not\ncompatible"), AssertionError(), KeyError("x")])
def test_what_nobody_foresaw_is_a_line_and_a_file(
    edgesdk: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception
) -> None:
    monkeypatch.setenv("EDGESDK_CACHE", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["edgesdk", "verify", "some where"])
    _fails_with(error, monkeypatch)
    done = edgesdk("verify", "some where")
    assert (done.code, done.out) == (70, "")
    assert "edgesdk verify" in done.line and type(error).__name__ in done.line
    noted = _file(done.line).read_text()
    assert _file(done.line).is_relative_to(tmp_path)
    for word in ("Traceback", "test_frame.py", "edgesdk verify 'some where'", "Python 3.", "torch ", "onnxruntime "):
        assert word in noted


def test_the_file_for_a_maintainer_holds_no_password(edgesdk: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    _fails_with(RuntimeError("no answer from http://me:s3cret@host/runs"), monkeypatch)
    monkeypatch.setattr("sys.argv", ["edgesdk", "verify", "ssh://pi:s3cret@board"])
    noted = _file(edgesdk("verify", "x").line).read_text()
    assert "s3cret" not in noted and "ssh://pi@board" in noted and "http://me@host/runs" in noted


def test_where_the_cache_cannot_be_written_the_file_is_elsewhere(
    edgesdk: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("EDGESDK_CACHE", str(tmp_path / "file"))
    _fails_with(RuntimeError("no"), monkeypatch)
    path = _file(edgesdk("verify", "x").line)
    assert "Traceback" in path.read_text()
    path.unlink()


def test_the_users_own_line_and_the_stage_are_named_and_not_the_data(
    edgesdk: Run, given: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = runpy.run_path(str(given / "models.py"))["broken"]
    monkeypatch.setattr("edgesdk.pipeline.study.trace", lambda model, x, reference: broken(x, None))
    done = edgesdk("deploy", "models.py:Small", "--data", "data.npz", "--target", "x86", "--out", tmp_path / "b")
    assert done.code == 70
    assert "while tracing" in done.line and "in models.py line" in done.line and "broken" in done.line
    noted = _file(done.line).read_text()
    assert "tensor(" not in noted
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (MemoryError(), 1, "memory ran out"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), 1, "memory ran out"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), 9, "No space left on device"),
    ],
)
def test_a_machine_that_is_full_is_no_defect(
    edgesdk: Run, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int, says: str
) -> None:
    _fails_with(error, monkeypatch)
    done = edgesdk("verify", "x")
    assert done.code == code and says in done.line and "maintainer" not in done.line


def test_light_commands_import_nothing_heavy(deployed: tuple[Path, str], tmp_path: Path) -> None:
    """Each command by itself would pay for a process: they run one after the other in one."""
    script = f"""
import sys
import edgesdk
assert edgesdk.__version__ and "Budget" in dir(edgesdk)
from edgesdk.cli import main
ends = {{}}
for line in (["--help"], ["targets"], ["targets", "pi5"], ["device", "list"], ["device", "probe", "local"],
             ["verify", "nothing"], ["verify", sys.argv[1]], ["benchmark", sys.argv[1], "--mode", "rapid"],
             ["report", sys.argv[1], "--out", sys.argv[2] + ".html"],
             ["device", "install", "local", sys.argv[1], "--install-root", sys.argv[2]]):
    try:
        main(line)
    except SystemExit as end:
        heavy = [name for name in {HEAVY!r} if name in sys.modules]
        assert not heavy, (line, heavy)
        ends[" ".join(line[:2])] = end.code
print(ends, file=sys.stderr)
assert [code for code in ends.values() if code] == [8], ends
"""
    command = [sys.executable, "-c", script, deployed[0], tmp_path / "root"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
