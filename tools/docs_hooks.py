"""Hooks of mkdocs.yml: the parts of pages that are generated from the code, each where a page has its marker.

A line ``<!-- generated: NAME -->`` of a page is replaced by what the function of that name in ``PARTS`` returns.
(mkdocs-click was tried for the command line: its 0.9.0 prints ``Sentinel.UNSET`` as defaults with Click 8.3.)
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from mkdocs.exceptions import PluginError

MARKER = re.compile(r"^<!-- generated: ([\w-]+) -->$", re.MULTILINE)
LOADED = re.compile(r"""<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=["']?https?:[^"'\s>]*""")
SCHEMAS = Path(__file__).parents[1] / "docs" / "schemas"


def command_line() -> str:
    """Every command of ``edgesdk``, with its arguments and options."""
    from edgesdk.cli import main

    return "\n".join(_described(main, click.Context(main, info_name="edgesdk", **main.context_settings)))


def _described(command: click.Command, context: click.Context, depth: int = 2) -> Iterator[str]:
    yield from (f"{'#' * depth} {context.command_path}", "", _paragraphs(command.help or ""), "")
    yield from ("```text", " ".join([context.command_path, *command.collect_usage_pieces(context)]), "```", "")
    rows = [row for option in command.get_params(context) if (row := option.get_help_record(context))]
    if rows:
        yield from ("| option | |", "|---|---|")
        yield from (f"| `{names}` | {_cell(text)} |" for names, text in rows)
        yield ""
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            if below is not None and not below.hidden:
                yield from _described(below, click.Context(below, context, info_name=name), min(depth + 1, 4))


def _paragraphs(text: str) -> str:
    return "\n\n".join(" ".join(part.split()) for part in text.replace("\b", "").split("\n\n"))


def _cell(text: str) -> str:
    return re.sub(r"([|\[\]<*_])", r"\\\1", " ".join(text.split()))


def exit_codes() -> str:
    """The kinds of error, with what each exit code stands for."""
    from edgesdk.core import errors

    rows = {1: "| 1 | `EdgeSdkError` | Anything else that was foreseen. |"}
    for kind in errors.EdgeSdkError.__subclasses__():
        rows[kind.exit_code] = f"| {kind.exit_code} | `{kind.__name__}` | {_first(kind)} |"
    return "\n".join(["| code | error | what is wrong |", "|---|---|---|", *(rows[code] for code in sorted(rows))])


def _first(kind: type) -> str:
    """The first paragraph of what is said of ``kind``."""
    return _cell((kind.__doc__ or "").split("\n\n")[0])


def targets() -> str:
    """Every target with its chip, its runtimes and the precisions of each."""
    from edgesdk.core.target import targets as every

    rows = ["| target | also called | runtimes, with the precisions that a layer may have |", "|---|---|---|"]
    for command in every().values():
        runtimes = "; ".join(f"{name}: {', '.join(kinds)}" for name, kinds in command.precisions.items())
        rows.append(f"| `{command.name}` | {', '.join(command.aliases)} | {runtimes} |")
    return "\n".join(rows)


def schemas() -> str:
    """The JSON Schemas of the folder, each as a link."""
    files = sorted(SCHEMAS.glob("*.json"))
    return "\n".join(f"- [{file.stem.removesuffix('.schema')}](../schemas/{file.name})" for file in files)


PARTS = {"command-line": command_line, "exit-codes": exit_codes, "targets": targets, "schemas": schemas}


def on_page_markdown(markdown: str, **kwargs: Any) -> str:
    """What MkDocs calls with each page. A marker that nothing is known of stops the build."""
    return MARKER.sub(lambda marker: PARTS[marker[1]](), markdown)


def on_post_page(output: str, *, page: Any, **kwargs: Any) -> str:
    """What MkDocs calls with each page that it made: one that loads anything from the network stops the build."""
    if match := LOADED.search(output):
        raise PluginError(f"{page.file.src_path} would load from the network: {match[0]}")
    return output
