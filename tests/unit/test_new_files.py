"""What is to be written to a folder lies in it under its usual name, whatever the command and the flag."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from edgesdk.cli import main
from edgesdk.cli.names import NewFile
from edgesdk.core.serialize import find_file, write

FOLDERS = {"deploy --out", "export --out", "stages --out", "sweep --out-dir", "diff --overlays", "examples folder"}
FILES = {
    "search --out": "plan.json", "sweep --out": "front.json", "sweep --csv": "front.csv", "gate --junit": "gate.xml",
    "gate --summary": "gate.md", "agent build out": "agent.pyz", "report --out": None,  # its own, by what it is of

}  # fmt: skip
WORDS = ("out", "junit", "summary", "csv", "out_dir", "overlays", "folder")


def list_commands(group: click.Group, before: str = "") -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from list_commands(command, f"{before}{name} ")
        else:
            yield f"{before}{name}", command


def test_every_flag_that_names_a_file_takes_a_folder_too() -> None:
    found: dict[str, str | None] = {}
    for name, command in list_commands(main):
        for param in command.params:
            called = f"{name} {max(param.opts, key=len)}"
            if param.name in WORDS and called not in FOLDERS and not name.startswith("prepare "):  # folders, too
                found[called] = param.type.usual if isinstance(param.type, NewFile) else None
    assert found == FILES


@pytest.mark.parametrize(
    ("place", "file"),
    [
        ("new.json", "new.json"),
        ("no/such/new.json", "no/such/new.json"),
        ("no/such/", "no/such/plan.json"),
        ("there", "there/plan.json"),
        ("there/", "there/plan.json"),
        (".", "plan.json"),
        ("", "plan.json"),
        ("file/", "file/plan.json"),  # which no file can be, as is said where it is written
    ],
)
def test_a_folder_or_a_slash_at_the_end_means_a_file_in_it(
    place: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    (tmp_path / "file").touch()
    assert NewFile("plan.json").convert(place, None, None) == find_file(place, "plan.json") == Path(file)
    if not place.startswith("file"):
        write(find_file(place, "plan.json"), "{}")
        assert (tmp_path / file).read_text() == "{}"
