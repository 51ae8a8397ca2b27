"""The command line. Results go to stdout, progress and errors to stderr; ``core.errors`` has the exit codes."""

from __future__ import annotations

import gc

import click

from edgesdk.cli import asking, beginning, devices, diffing, gating, making, preparing, staging, sweeping
from edgesdk.cli.frame import Commands
from edgesdk.cli.freed import keep_freed_memory
from edgesdk.cli.remarks import show_as_lines

THRESHOLDS: tuple[int, int, int] = (20_000, 10, 10)
"""Of Python's garbage collection: PyTorch's objects stay, and searching them took a tenth of a deployment."""


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="edgesdk")
def main() -> None:
    """Compress a trained PyTorch model until it keeps a budget on a device, measured.

    Exit codes: 0 done, 2 usage, 3 model, 4 data, 5 budget out of reach, 6 device or runtime, 7 parity, 8 bundle,
    9 disk, 10 to 12 a gate that did not pass, 70 an unexpected error, 130 interrupted, 143 ended by SIGTERM.
    """
    gc.set_threshold(*THRESHOLDS)
    keep_freed_memory()
    show_as_lines()


for _command in (
    beginning.init, beginning.examples, making.deploy, making.search, sweeping.sweep, making.export,
    preparing.prepare, staging.stages, asking.benchmark, gating.gate, asking.verify, diffing.diff,
    asking.report, asking.estimate, asking.targets,
    asking.calibrate, asking.doctor, devices.device, devices.agent,
):  # fmt: skip
    main.add_command(_command)
