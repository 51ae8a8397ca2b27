"""Whether deployments come out the same whatever disturbs the machine while they are priced, searched and measured.

    python tools/bench_noise.py --latency 0.5x [--model net.py:make --data data.npz] [--only load quota]

The model, by default the built-in example, is deployed again and again without training, each time with a cache of its
own: twice as the machine is, under load on all cores that comes and goes, within a cgroup's quota of half a core (where
none can be made, the agent is stopped and continued as a quota would), and with load that begins in the middle of
pricing, of searching and of measuring, and stays. In the end all files are measured in one interleaved run, so that
they can be compared whatever each run thought. Prints a row for each.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import edgesdk
from load import burning

PERIOD_US, QUOTA_US = 100_000, 50_000
STAGE = re.compile(r" *(\d+\.\d) s  (?:\d+/\d+ )?(.+)")
SUDDEN = {
    "pricing": "pricing whole layers",
    "searching": "searching",
    "measuring": "exporting and measuring",
}
CASES = ("as it is", "again", "load", "quota", *SUDDEN)


@contextmanager
def cgroup() -> Iterator[str | None]:
    """The file to which a process writes its number to be held within the quota; ``None`` where there is none."""
    name = f"edgesdk-bench-{os.getpid()}"
    for root, limits in (
        (Path("/sys/fs/cgroup"), {"cpu.max": f"{QUOTA_US} {PERIOD_US}"}),
        (Path("/sys/fs/cgroup/cpu"), {"cpu.cfs_period_us": str(PERIOD_US), "cpu.cfs_quota_us": str(QUOTA_US)}),
    ):
        group = root / name
        try:
            group.mkdir()
            for file, value in limits.items():
                if not (group / file).exists():
                    raise OSError(f"no {file}")
                (group / file).write_text(value)
        except OSError:
            if group.is_dir():
                group.rmdir()
            continue
        yield str(group / "cgroup.procs")
        for _ in range(50):
            try:
                group.rmdir()
                return
            except OSError:  # what was in it has not ended quite
                time.sleep(0.1)
        return
    yield None


@contextmanager
def duty(process: subprocess.Popen[str]) -> Iterator[None]:
    """Stop ``process`` and what it started for a part of each period, as a quota does."""
    ended = threading.Event()

    def stop_and_go() -> None:
        while not ended.is_set() and process.poll() is None:
            for name, seconds in ((signal.SIGCONT, QUOTA_US / 1e6), (signal.SIGSTOP, (PERIOD_US - QUOTA_US) / 1e6)):
                with ExitStack() as stack:
                    stack.callback(time.sleep, seconds)
                    try:
                        os.killpg(process.pid, name)
                    except ProcessLookupError:
                        return

    thread = threading.Thread(target=stop_and_go)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGCONT)


def deploy(case: str, out: Path, given: list[str], took: dict[str, float]) -> tuple[dict[str, Any], str]:
    """The report of a deployment under what ``case`` says, and how that was done; ``took`` are the stages' seconds."""
    command = [sys.executable, "-m", "edgesdk.cli", "deploy", "--target", "x86", "--epochs", "0", "--json"]
    environment = {**os.environ, "EDGESDK_CACHE": str(out.with_suffix(".cache"))}
    how, begins, stages = "", [], {}
    with ExitStack() as stack:
        procs = stack.enter_context(cgroup()) if case == "quota" else None
        join = (lambda: Path(procs).write_text(str(os.getpid()))) if procs else None
        if case == "load":
            stack.enter_context(burning(0.2, 0.3))
        process = subprocess.Popen(
            [*command, *given, "--out", str(out)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=environment, start_new_session=True, preexec_fn=join,
        )  # fmt: skip
        if case == "quota":
            how = "cgroup" if procs else "stopped and continued"
            if not procs:
                stack.enter_context(duty(process))
        printed: list[str] = []
        reader = threading.Thread(target=lambda: printed.append(process.stdout.read()))  # type: ignore[union-attr]
        reader.start()
        assert process.stderr is not None
        said = ""
        for line in process.stderr:
            said = line
            if found := STAGE.match(line):
                begins.append((found[2], float(found[1])))
                if case in SUDDEN and found[2].startswith(SUDDEN[case]) and not how:
                    how = "load from its middle on"
                    time.sleep(took.get(found[2], 4.0) / 2)
                    stack.enter_context(burning(10.0, 0.0))
        reader.join()
        process.wait()
    for (name, begin), (_, end) in itertools.pairwise(begins):
        stages[name] = stages.get(name, 0.0) + end - begin
    took.update({name: seconds for name, seconds in stages.items() if case == CASES[0]})
    if process.returncode:
        return {}, f"failed ({process.returncode}): {said.strip()}"
    return json.loads(printed[0])["report"], how


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--data")
    parser.add_argument("--weights")
    parser.add_argument("--runtime", default="onnxruntime")
    parser.add_argument("--latency", default="0.5x")
    parser.add_argument("--mode", default="quick", help="of the last run, in which all files are compared")
    parser.add_argument("--only", nargs="*", default=CASES, choices=CASES)
    options = parser.parse_args()
    given = [*([options.model] if options.model else []), "--latency", options.latency, "--runtime", options.runtime]
    given += ["--data", options.data] if options.data else []
    given += ["--weights", options.weights] if options.weights else []
    with tempfile.TemporaryDirectory(prefix="edgesdk-") as folder:
        took: dict[str, float] = {}
        found: dict[str, tuple[dict[str, Any], str]] = {}
        for case in options.only:
            begin = time.monotonic()
            found[case] = deploy(case, Path(folder) / case.replace(" ", "-"), given, took)
            print(f"{case}: {time.monotonic() - begin:.0f} s {found[case][1]}", file=sys.stderr, flush=True)
        kept = {case: report for case, (report, _) in found.items() if report}
        if not kept:
            sys.exit("nothing was deployed, so that there is nothing to compare")
        paths = [Path(folder) / case.replace(" ", "-") for case in kept]
        compared = edgesdk.benchmark(paths, mode=options.mode).reports
        first = next(iter(kept))
        print("| disturbed by | plan | predicted / measured | of the budget used | disturbed | beside the first | |")
        print("|---|---|---|---|---|---|---|")
        for (case, report), one in zip(kept.items(), compared, strict=True):
            ratio = report["measured"]["latency_ratio"]
            bound = next((report["budget"][n], report["measured"][n]) for n in ("latency_ratio", "latency_ms")
                         if report["budget"][n])  # fmt: skip
            beside = one.ratios.get(str(paths[0]))
            against = "1" if beside is None else f"{beside.median:.3f} ({beside.low:.3f} to {beside.high:.3f})"
            plan = json.loads((Path(folder) / case.replace(" ", "-") / "manifest.json").read_text())["plan"][:8]
            notes = [note for note in report["notes"] if "of the latency that is allowed" in note]
            print(
                f"| {case} {found[case][1]} | {plan} | {report['predicted']['latency_ratio'] / ratio:.3f} | "
                f"{bound[1] / bound[0]:.3f} | {100 * report['deployed']['undisturbed']['disturbed']:.0f} % | "
                f"{against} | {'; '.join(notes)} |",
                flush=True,
            )
        for case, (report, how) in found.items():
            if not report:
                print(f"{case}: {how}")
        print(f"the first: {first}")


if __name__ == "__main__":
    main()
