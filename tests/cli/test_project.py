"""A project's edgesdk.toml: it stands for flags that are not given, each command takes its part, flags win."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click
import pytest
from running import Run

from edgesdk.cli import main
from edgesdk.cli.frame import tell_command
from edgesdk.cli.project import SECTIONS, ModelCommand
from edgesdk.core.errors import UsageError

FILE = """
[model]
source = "models.py:Small"
[data]
source = "data.npz"
mean = [0.5, 0.25]
[target]
name = "pi4"
precision = ["int8"]
threads = 2
[budget]
latency = "0.6x"
max_drop = 50
[recover]
epochs = 0
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "edgesdk.toml").write_text(FILE)
    return tmp_path


def taken(command: str, *arguments: str) -> dict[str, Any]:
    """What the command would run with."""
    every: click.Command = main.commands[command]
    return every.make_context(command, [*arguments]).params


def test_every_key_is_a_flag_of_a_command_that_reads_the_file() -> None:
    commands = [command for command in main.commands.values() if isinstance(command, ModelCommand)]
    names = {param.name for command in commands for param in command.params}
    for section, keys in SECTIONS.items():
        assert set(keys.values()) <= names, section
    for command in commands:
        for param in command.params:
            flag = max(param.opts, key=len).lstrip("-")
            of = {key for keys in SECTIONS.values() for key, name in keys.items() if name == param.name}
            assert not of or of & {flag, "source", "name", "schedule"}, (command.name, param.name)


def test_flags_that_are_not_given_come_from_the_file(project: Path) -> None:
    options = taken("deploy")
    assert (options["model"], options["data"], options["target"]) == ("models.py:Small", "data.npz", "pi4")
    assert (options["precision"], options["threads"], options["mean"]) == (("int8",), 2, "0.5,0.25")
    assert (options["latency"], options["max_drop"], options["epochs"]) == ("0.6x", 50.0, 0.0)
    assert options["size"] is None and options["out"] == Path("bundle")


def test_flags_win_and_make_void_what_belongs_to_another_model_or_place(project: Path) -> None:
    text = FILE.replace("[data]", 'weights = "w.pt"\nshape = "3x8x8"\n[data]', 1)
    (project / "edgesdk.toml").write_text(text)
    options = taken("deploy", "other.py:net", "--latency", "2ms", "--device", "lab")
    assert (options["model"], options["latency"], options["device"]) == ("other.py:net", "2ms", ("lab",))
    assert (options["weights"], options["shapes"], options["target"]) == (None, (), None)
    assert options["data"] == "data.npz" and taken("deploy")["weights"] == Path("w.pt")
    assert taken("deploy", "--weights", "mine.pt", "a.py:b")["weights"] == Path("mine.pt")


def test_each_command_takes_what_it_means(project: Path) -> None:
    sweep = taken("sweep")
    assert (sweep["target"], sweep["threads"], sweep["precision"]) == (("pi4",), (2,), ("int8",))
    assert sweep["latency"] == ()  # which are its points, and no budget
    assert (sweep["model"], sweep["weights"]) == (("models.py:Small",), ())  # of which there may be several
    assert taken("sweep", "a.py:b", "c.py:d")["model"] == ("a.py:b", "c.py:d")
    stages = taken("stages")
    assert stages["precision"] == "fp32" and stages["max_drop"] == 50  # one precision there, several here
    assert taken("export", "plan.json")["epochs"] == 0
    assert taken("estimate")["target"] == "pi4"
    assert "target" not in taken("verify", "bundle")


@pytest.mark.parametrize(
    "command",
    [("benchmark", "bundle"), ("diff", "bundle"), ("gate", "new", "--baseline", "old"), ("calibrate", "board")],
)
def test_what_was_made_is_looked_at_on_the_project_s_device_and_says_the_rest_itself(
    project: Path, command: tuple[str, ...]
) -> None:
    assert taken(*command)["device"] == ()
    file = FILE.replace('name = "pi4"', 'device = "lab-pi-4"\nruntime = "litert"')
    (project / "edgesdk.toml").write_text(file)
    options = taken(*command)
    here = taken(*command, "--device", "local")["device"]
    assert (options["device"], here) == (("lab-pi-4",), ("local",))
    assert options.get("runtime") in (None, "onnxruntime") and options.get("threads") in (None, 1)
    assert all(options.get(name) is None for name in ("model", "weights", "data", "max_drop"))
    (project / "edgesdk.toml").write_text(f"{file}[modle]\n")
    with pytest.raises(UsageError, match="'model' may be meant"):
        taken(*command)


def test_a_file_of_measurements_is_of_no_device(project: Path) -> None:
    (project / "edgesdk.toml").write_text(FILE.replace('name = "pi4"', 'device = "lab-pi-4"'))
    assert taken("calibrate", "board", "--measurements", "took.csv")["device"] == ()


@pytest.mark.parametrize("command", ["deploy", "sweep"])
def test_whether_samples_are_shown_is_of_the_data(project: Path, command: str) -> None:
    assert taken(command)["pictures"] is True
    for said in (True, False):
        (project / "edgesdk.toml").write_text(FILE.replace("[data]", f"[data]\npictures = {str(said).lower()}", 1))
        assert taken(command)["pictures"] is said
        assert taken(command, "--pictures")["pictures"] is True
        assert taken(command, "--no-pictures")["pictures"] is False


@pytest.mark.parametrize(
    "typed",
    [
        ("deploy",), ("deploy", "other.py:net", "--latency", "2ms", "--device", "a lab", "--precision=fp32"),
        ("sweep", "--seed", "3", "--points", "2"), ("sweep", "a b.py:c", "d.py:e", "--pictures"), ("stages",),
        ("benchmark", "it's/a bundle", "--json"), ("deploy", "--max-drop", "-0.5", "--", "net.py:net"),
        ("prepare", "sparsify", "--seed", "2"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_the_command_that_is_recorded_asks_for_the_same_without_the_file(project: Path, typed: tuple[str, ...]) -> None:
    """What the file says is in it as flags: typed elsewhere, it comes to the same options."""
    (project / "edgesdk.toml").write_text(FILE.replace("[data]", "[data]\npictures = false", 1))

    def parsed(words: list[str]) -> click.Context:
        context, command = click.Context(main, info_name="edgesdk"), main.commands[words[0]]
        if isinstance(command, click.Group):
            context, words = click.Context(command, context, words[0]), words[1:]
            command = command.commands[words[0]]
        return command.make_context(words[0], words[1:], context)

    asked = parsed([*typed])
    first, *words = shlex.split(tell_command(asked))
    (project / "edgesdk.toml").unlink()
    assert first == "edgesdk" and parsed(words).params == asked.params
    assert shlex.split(tell_command(parsed(words))) == ["edgesdk", *words]


def test_a_search_by_the_file_is_that_by_flags(edgesdk: Run, given: Path) -> None:
    flags = ("models.py:Small", "--data", "data.npz", "--target", "pi4", "--size", "12kB", "--max-drop", "60")
    by_flags = edgesdk("search", *flags, "--out", "flags.json", "--json").document
    lines = '[model]\nsource="models.py:Small"\n[data]\nsource="data.npz"\n[target]\nname="pi4"\n'
    Path("edgesdk.toml").write_text(f'{lines}[budget]\nsize="12kB"\nmax-drop=60\n')
    try:
        by_file = edgesdk("search", "--out", "file.json", "--json").document
    finally:
        Path("edgesdk.toml").unlink()
    assert by_file["layers"] == by_flags["layers"] and by_file["kept"] == by_flags["kept"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[model", "is no TOML"),
        ("[modle]\nsource = 'a'", r"section \[modle\], which is not known: 'model' may be meant"),
        ("[budget]\nlatncy = '2ms'", "has 'latncy', which is not known: 'latency' may be meant"),
        ("[budget]\nlatency = {ms = 2}", "neither a text nor a number"),
        ("[budget]\nlatency = true", "neither a text nor a number"),
        ("[budget]\nlatency = [true]", "neither a text nor a number"),
        ("[budget]\nlatency = ['1ms', '2ms']", "latency in .* has several values"),
        ("[data]\nsource = ['a.npz']", "source in .* has several values"),
        ("[recover]\nepochs = [1, 2]", "epochs in .* has several values"),
        ("[data]\npictures = 'none'", "neither true nor false"),
        ("[data]\npictures = 0", "neither true nor false"),
        ("[data]\npicture = false", "has 'picture', which is not known: 'pictures' may be meant"),
        ("budget = 2", "is no section"),
    ],
)
def test_a_file_that_says_what_nothing_reads(project: Path, text: str, says: str) -> None:
    (project / "edgesdk.toml").write_text(text)
    with pytest.raises(UsageError, match=says):
        taken("deploy")


def test_a_value_that_a_flag_would_refuse_names_the_file(project: Path) -> None:
    (project / "edgesdk.toml").write_text("[target]\nthreads = 0")
    with pytest.raises(click.BadParameter, match=r"edgesdk\.toml"):
        taken("deploy")
