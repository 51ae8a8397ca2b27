"""The command for CI that says whether a new build may take the place of the last."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import click

from edgesdk.cli.devices import DEVICES
from edgesdk.cli.frame import QUIET, told
from edgesdk.cli.names import PLACE_NAME, NewFile
from edgesdk.cli.progress import telling
from edgesdk.cli.project import ModelCommand
from edgesdk.cli.shared import add_text, check_place
from edgesdk.cli.streams import console, emit_json
from edgesdk.core.gating import FAILED, PASSED
from edgesdk.core.serialize import write
from edgesdk.core.wording import counted

if TYPE_CHECKING:
    from edgesdk.workflows.gate import Gate


@click.command(cls=ModelCommand, only=("device",))
@click.argument("new", type=click.Path(path_type=Path))
@click.option("--baseline", required=True, type=click.Path(path_type=Path), help="What it is compared with.")
@click.option("--max-slower", default="3%", show_default=True, help="Of the baseline's latency, or ms: 0.2ms.")
@click.option("--max-drop", type=float, help="Of the score that two bundles recorded, in points.")
@click.option("--data", help="Judge both on its test samples, instead of by what they recorded.")
@click.option("--device", **PLACE_NAME, multiple=True, help=f"{DEVICES}  [default: local]")
@click.option("--runtime", help="What is to run them.  [default: the one that such files are for]")
@click.option("--threads", type=click.IntRange(1), help="[default: the bundles' own, else 1]")
@click.option("--mode", type=click.Choice(["brief", "rapid", "quick", "full"]), default="rapid", show_default=True)
@click.option("--junit", type=NewFile("gate.xml"), help="Write the checks there as JUnit XML.")
@click.option("--summary", type=NewFile("gate.md"), help="Append them there as Markdown.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def gate(as_json: bool, junit: Path | None, summary: Path | None, **options: Any) -> int:
    """Say whether NEW is slower or less accurate than a baseline, both measured in turns on one device.

    NEW and the baseline are bundles or model files. Runs are repeated until the answer is clear. On several boards each
    has runs of its own, and the worst verdict is that of all.

    Exit codes: 0 passed, 10 failed, 11 unclear after 24 runs, 12 not comparable.
    """
    for place in (junit, summary):
        check_place(place)
    with telling() as tell:
        from edgesdk.devices.inventory import LOCAL
        from edgesdk.workflows.gate import gate as run

        options["device"] = options["device"] or LOCAL
        gated = run(**options, tell=tell)
    if junit is not None:
        write(junit, as_junit(gated))
    if summary is not None:
        add_text(summary, as_markdown(gated))
    if as_json:
        emit_json(gated)
    else:
        from edgesdk.cli.show import show_gate

        show_gate(gated, console(), told(QUIET))
    return gated.exit_code


def as_junit(gated: Gate) -> str:
    """The checks as a JUnit XML document: one that is unclear or cannot be compared is an error, not a failure."""
    failed = sum(check.verdict == FAILED for check in gated.checks)
    errors = sum(check.verdict not in (PASSED, FAILED) for check in gated.checks)
    counts = {"tests": str(len(gated.checks)), "failures": str(failed), "errors": str(errors)}
    suite = ElementTree.Element("testsuite", {"name": "edgesdk gate", **counts})
    for check in gated.checks:
        case = ElementTree.SubElement(suite, "testcase", {"classname": "edgesdk.gate", "name": check.name})
        if check.verdict != PASSED:
            kind = "failure" if check.verdict == FAILED else "error"
            message = f"{check.measured}, {check.limit} allowed"
            ElementTree.SubElement(case, kind, {"type": check.verdict, "message": message})
        ElementTree.SubElement(case, "system-out").text = check.measured
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, "unicode", xml_declaration=True) + "\n"


def as_markdown(gated: Gate) -> str:
    """The checks as a table, for the summary of a job."""
    rows = [f"| {check.name} | {check.verdict} | {_cell(check.measured)} | {check.limit} |" for check in gated.checks]
    head = f"### edgesdk gate: {gated.verdict}\n\n`{_cell(gated.new)}` against `{_cell(gated.baseline)}`"
    if gated.runtime_version:  # something was measured
        head += f", measured on {_cell(gated.device)}, {gated.runtime} {gated.runtime_version}, "
        head += f"{counted(gated.threads, 'thread')}, mode {gated.mode}"
    lines = [f"{head}\n", "| check | verdict | measured | allowed |", "|---|---|---|---|", *rows]
    if gated.boards:
        lines += ["", "| board | verdict | latency |", "|---|---|---|"]
        lines += [f"| {_cell(name)} | {own.verdict} | {_cell(own.measured)} |" for name, own in gated.boards.items()]
    lines += [f"\n{_cell(note)}" for note in gated.notes]
    return "\n".join([*lines, ""])


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("`", "'").replace("<", "&lt;").replace("\n", " ")
