"""What the documents show, taken out of them, and what is wrong with it: commands, Python, TOML, lines too long."""

from __future__ import annotations

import ast
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import click

import edgesdk
from edgesdk.cli import main

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]

ROOT = Path(__file__).parent.parent.parent
SOURCES = {"edgesdk": ROOT / "sdk", "edgesdk_targets": ROOT / "targets", "edgesdk_profiles": ROOT / "profiles"}
EXAMPLES = ROOT / "sdk/edgesdk/example/_worked"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *EXAMPLES.glob("*/*.md")])
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`(edgesdk [^`]+)`")
SHELL = ("", "sh", "bash", "text")
STEP = re.compile(r"^(?:\$ | *- (?:run: )?)")  # before a command at a prompt, and in a workflow file
ELLIPSIS = ("...", "…")


def blocks(text: str, *languages: str) -> Iterator[str]:
    """The fenced blocks of ``text`` in one of the ``languages``."""
    yield from (block[3] for block in FENCE.finditer(text) if block[2] in languages)


def commands(text: str) -> Iterator[list[str]]:
    """Every ``edgesdk`` that a shell block or a workflow file in ``text`` runs, as its arguments."""
    for block in blocks(text, *SHELL, "yaml"):
        for line in block.replace("\\\n", " ").splitlines():
            yield from _of_line(STEP.sub("", line))


def _of_line(line: str) -> Iterator[list[str]]:
    if not re.search(r"(^|&& *|\| *)edgesdk ", line):
        return
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, "&&"]:
        if word in ("&&", "||", "|", ";"):
            if words[:1] == ["edgesdk"]:
                yield words[1 : words.index(">")] if ">" in words else words[1:]
            words = []
        else:
            words.append(word)


def mentions(text: str) -> Iterator[list[str]]:
    """Every ``edgesdk`` command that ``text`` mentions in a line, where a part of one will do."""
    yield from (shlex.split(" ".join(command.split()))[1:] for command in INLINE.findall(FENCE.sub("", text)))


def names(text: str) -> Iterator[str]:
    """Every ``edgesdk.NAME`` that ``text`` mentions in a line, with what it is called with."""
    yield from re.findall(r"`(edgesdk\.[a-zA-Z]\w*(?:\([^`]*\))?)`", FENCE.sub("", text))


def command_error(words: list[str], whole: bool = True) -> str | None:
    """Why click refuses these arguments of ``edgesdk``. Of those that are not ``whole`` only names are looked at."""
    command: click.Command = main
    context = click.Context(main, info_name="edgesdk", **main.context_settings)
    rest = list(words)
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        below = command.get_command(context, rest[0])
        if below is None:
            return f"there is no command {rest[0]}"
        context = click.Context(below, context, info_name=rest.pop(0))
        command = below
    options = {name for option in command.get_params(context) for name in option.opts}
    names = [word.partition("=")[0] for word in rest if re.match(r"--?[a-z]", word)]
    if unknown := [name for name in names if name not in options]:
        return f"{context.command_path} has no option {unknown[0]}"
    if not whole or isinstance(command, click.Group) or any(word in ELLIPSIS for word in rest):
        return None
    try:
        command.make_context(command.name, rest, parent=context.parent)
    except click.ClickException as error:
        return error.format_message()
    except click.exceptions.Exit:  # of --help and --version
        return None
    return None


def python_error(code: str) -> str | None:
    """Why ``code`` does not compile, or which name or keyword of edgesdk in it there is not."""
    try:
        tree = ast.parse(code)
    except SyntaxError as error:
        return f"line {error.lineno}: {error.msg}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "edgesdk":
            if node.attr not in dir(edgesdk):
                return f"there is no edgesdk.{node.attr}"
        module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
        if isinstance(node, ast.ImportFrom) and module.partition(".")[0] in SOURCES:
            names = [*_defined(module), *dir(edgesdk)] if module == "edgesdk" else _defined(module)
            if missing := [alias.name for alias in node.names if alias.name not in names]:
                return f"{module} has no {missing[0]}"
        if isinstance(node, ast.Call) and (wrong := _call_error(node)):
            return wrong
    return None


def _call_error(call: ast.Call) -> str | None:
    """Which keyword of a call of ``edgesdk.NAME`` there is not."""
    to = call.func
    if not (isinstance(to, ast.Attribute) and isinstance(to.value, ast.Name) and to.value.id == "edgesdk"):
        return None
    if to.attr not in edgesdk._HOMES:
        return f"there is no edgesdk.{to.attr}"
    names = _parameters(edgesdk._HOMES[to.attr], to.attr)
    unknown = [word.arg for word in call.keywords if word.arg is not None and word.arg not in names]
    return f"edgesdk.{to.attr} takes no {unknown[0]}" if unknown else None


def _tree(module: str) -> ast.Module:
    """The source of ``module``, which is not imported: it may take PyTorch. Empty where there is none."""
    place = SOURCES[module.partition(".")[0]].joinpath(*module.split("."))
    path = next((file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()), None)
    tree = ast.parse(path.read_text() if path else "")
    tree.body = [node for node in tree.body if not _is_overload(node)]
    return tree


def _is_overload(node: ast.stmt) -> bool:
    """Whether it is one more signature of a function that follows."""
    marks = node.decorator_list if isinstance(node, ast.FunctionDef) else []
    return any(isinstance(mark, ast.Name) and mark.id == "overload" for mark in marks)


def _defined(module: str) -> list[str]:
    """The functions, classes and constants of ``module``."""
    assigned = [node.targets[0] for node in _tree(module).body if isinstance(node, ast.Assign)]
    named = [node.name for node in _tree(module).body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    return named + [target.id for target in assigned if isinstance(target, ast.Name)]


def _parameters(home: str, name: str) -> list[str]:
    """What the function ``name`` takes, or the fields of that dataclass."""
    (definition,) = (node for node in _tree(f"edgesdk.{home}").body if getattr(node, "name", None) == name)
    if isinstance(definition, ast.FunctionDef):
        return [argument.arg for argument in (*definition.args.args, *definition.args.kwonlyargs)]
    fields = [node.target for node in getattr(definition, "body", ()) if isinstance(node, ast.AnnAssign)]
    return [target.id for target in fields if isinstance(target, ast.Name)]


def toml_error(text: str) -> str | None:
    """Why ``text`` is no TOML."""
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        return str(error)
    return None


def long_lines(text: str, most: int = 120) -> list[int]:
    """The lines that are wider than ``most`` and could be broken: neither in a block nor of a table."""
    prose = FENCE.sub(lambda block: "\n" * block[0].count("\n"), text).splitlines()
    return [n for n, line in enumerate(prose, 1) if len(line) > most and not line.startswith(("|", "<", "!["))]


def undocumented(module: str, only: str | None = None) -> list[str]:
    """The public functions, classes and methods of ``module``, or of its name ``only``, that no docstring explains."""
    kinds = (ast.FunctionDef, ast.ClassDef)
    public = [node for node in _tree(module).body if isinstance(node, kinds) and not node.name.startswith("_")]
    shown = [node for node in public if only in (None, node.name)]
    owners = [node for node in shown if isinstance(node, ast.ClassDef)]
    parts = [(owner.name, node) for owner in owners for node in owner.body if isinstance(node, ast.FunctionDef)]
    inner = [f"{owner}.{node.name}" for owner, node in parts if node.name[0] != "_" and not ast.get_docstring(node)]
    return [node.name for node in shown if not ast.get_docstring(node)] + inner


def missing_types(text: str) -> list[str]:
    """The types of a table of names and their module, as ``| `Plan`, `Option` | `core.plan` |``, that are not there."""
    rows = re.findall(r"^\| ((?:`[A-Z]\w+`(?:, )?)+) \| ((?:`[a-z][\w.]+`(?:, )?)+) \|", text, re.MULTILINE)
    missing = []
    for types, modules in rows:
        names = {name for module in re.findall(r"[\w.]+", modules) for name in _defined(f"edgesdk.{module}")}
        missing += [name for name in re.findall(r"\w+", types) if name not in names]
    return missing
