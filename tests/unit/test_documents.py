"""The documents say what there is: every command, name and file in them exists, and lines can be read."""

from __future__ import annotations

import re
from pathlib import Path

import documents
import pytest
from documents import PAGES, ROOT, blocks, command_error, commands, python_error

import edgesdk
from edgesdk.cli.project import FILE

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
CODE = sorted(file for part in ("sdk", "targets", "tools", "tests") for file in (ROOT / part).rglob("*.py"))
PATH = re.compile(r"\b(?:docs|tools|tests|sdk|targets|profiles)/[\w./-]*\w\.(?:md|py|json|toml)\b")
HISTORY = "CHANGELOG.md"  # tells of what there was, too


@every_page
def test_every_command_that_is_shown_is_one(page: Path) -> None:
    text = page.read_text()
    assert {" ".join(words): wrong for words in commands(text) if (wrong := command_error(words))} == {}
    if page.name != HISTORY:
        partly = {" ".join(words): command_error(words, whole=False) for words in documents.mentions(text)}
        assert {words: wrong for words, wrong in partly.items() if wrong} == {}


@every_page
def test_every_block_of_code_is_what_it_says(page: Path) -> None:
    text = page.read_text()
    assert [wrong for code in blocks(text, "python") if (wrong := python_error(code))] == []
    mentioned = [] if page.name == HISTORY else [name for name in documents.names(text) if name != FILE]
    assert [wrong for code in mentioned if (wrong := python_error(code)) and not _is_package(code)] == []
    assert [wrong for code in blocks(text, "toml") if (wrong := documents.toml_error(code))] == []


def _is_package(name: str) -> bool:
    return (ROOT / "sdk" / name.replace(".", "/")).is_dir()


@every_page
def test_lines_can_be_read(page: Path) -> None:
    if page.name != HISTORY:
        assert documents.long_lines(page.read_text()) == []


@every_page
def test_every_file_that_is_named_is_there(page: Path) -> None:
    text = page.read_text()
    linked = [link for link in re.findall(r"\]\(([^)#:]+?)(?:#[^)]*)?\)", text) if not link.startswith("..")]
    assert [name for name in linked if not (page.parent / name).exists()] == []
    if page.name != HISTORY:
        assert [name for name in PATH.findall(text) if not (ROOT / name).exists()] == []


def test_what_explains_the_code_names_what_is_there() -> None:
    """Files by the end of their path, types by the module that the table names."""
    architecture = ROOT / "docs/architecture.md"
    assert documents.missing_types(architecture.read_text()) == []
    for page in [architecture, *(ROOT / "docs/explanation").glob("*.md")]:
        named = set(re.findall(r"`([\w/]+\.py)`", page.read_text())) - {"run.py"}  # a bundle's
        assert [name for name in named if not any(f"/{file}".endswith(f"/{name}") for file in CODE)] == [], page.name


def test_every_page_that_the_code_names_is_there() -> None:
    named = {name for file in CODE for name in re.findall(r"(?<!\w)(?<!, )docs/[\w/-]+\.md", file.read_text())}
    assert {"docs/architecture.md"} <= {
        f"docs/{page.relative_to(ROOT / 'docs')}" for page in PAGES if "docs" in page.parts
    }
    assert sorted(name for name in named if not (ROOT / name).exists()) == []


def test_the_reference_has_every_public_name_and_every_technique() -> None:
    shown = set(re.findall(r"^::: edgesdk\.(\w+)$", (ROOT / "docs/reference/python.md").read_text(), re.MULTILINE))
    assert shown == set(edgesdk.__all__)
    page = (ROOT / "docs/reference/techniques-python.md").read_text()
    shown = set(re.findall(r"^::: edgesdk\.techniques\.(\w+)$", page, re.MULTILINE))
    files = (ROOT / "sdk/edgesdk/techniques").glob("*.py")
    assert shown == {file.stem for file in files} - {"__init__", "libraries"}


def test_what_the_reference_shows_is_explained() -> None:
    public = {name: documents.undocumented(f"edgesdk.{edgesdk._HOMES[name]}", name) for name in edgesdk.__all__}
    files = (ROOT / "sdk/edgesdk/techniques").glob("*.py")
    techniques = {file.stem: documents.undocumented(f"edgesdk.techniques.{file.stem}") for file in files}
    assert {name: missing for name, missing in {**public, **techniques}.items() if missing} == {}


def test_the_readme_begins_with_two_commands() -> None:
    first = next(blocks((ROOT / "README.md").read_text(), "sh")).splitlines()
    assert len(first) == 2
    assert first[0].startswith("pip install ") and "edgesdk deploy" in first[0] and first[1].endswith("pytest")


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("edgesdk deploi --target x86", "no command deploi"),
        ("edgesdk deploy --speed 2ms", "no option --speed"),
        ("edgesdk device install lab-pi-3", "BUNDLE"),
        ("pip install . && edgesdk benchmark b --mode fast > out", "fast"),
        ("edgesdk prepare transfer m.py:m --data d.npz \\\n    --clases 3", "no option --clases"),
    ],
)
def test_a_command_that_is_none_is_found(line: str, wrong: str) -> None:
    ((words),) = commands(f"```sh\n{line}   # why\n```\n")
    assert wrong in str(command_error(words))


@pytest.mark.parametrize(
    ("code", "wrong"),
    [
        ("import edgesdk\nedgesdk.deploi()", "no edgesdk.deploi"),
        ("edgesdk.deploy(target='x86', speed=1)", "no speed"),
        ("edgesdk.Budget(ms=1)", "no ms"),
        ("from edgesdk.core.errors import SlowError", "no SlowError"),
        ("def f(:", "line 1"),
    ],
)
def test_code_with_a_name_that_is_none_is_found(code: str, wrong: str) -> None:
    assert wrong in str(python_error(code))
