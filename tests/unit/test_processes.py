"""Tasks in processes of their own: the same results as here, a lost process costs its task alone, nothing is left."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from edgesdk.core.errors import BudgetError, EdgeSdkError, UsageError
from edgesdk.core.processes import GUARD, Job, Processes, Progress, Unsendable, check_jobs

KINDS = {"budget": BudgetError("no plan", "allow more", figure="latency_ms", asked=1.0, tightest=2.0),
         "usage": UsageError("a fact", "a remedy")}  # fmt: skip


def work(shared: Path, given: Any, progress: Progress) -> Any:
    """Notes that it was begun, and does what is ``given``: a number is squared, else it is how this ends."""
    with (shared / f"begun-{given}").open("a") as log:
        log.write(f"{os.getpid()}\n")
    progress(0.5)
    if isinstance(given, int):
        return given**2, os.getpid()
    if given in KINDS:
        raise KINDS[given]
    if given == "bug":
        return 1 // 0
    if given == "sleeps":
        time.sleep(600)
    if given == "dies" or len(begun(shared, given)) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return "lives", os.getpid()


def begun(folder: Path, given: Any) -> list[int]:
    """The processes in which that was begun; none where all ended before it was its turn."""
    log = folder / f"begun-{given}"
    return [int(line) for line in log.read_text().split()] if log.exists() else []


def jobs(*given: Any) -> list[Job]:
    return [Job(f"the job {each}", each) for each in given]


def is_there(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return b"State:\tZ" not in Path(f"/proc/{process}/status").read_bytes()


def test_results_come_in_order_from_as_many_processes_as_were_asked_for(tmp_path: Path) -> None:
    told: list[float] = []
    with Processes(2, work, tmp_path) as processes:
        results = processes.run(jobs(*range(5)), told.append)
        again = processes.run(jobs(7))
    assert [value for value, _ in results] == [0, 1, 4, 9, 16] and again[0][0] == 49
    own = {process for _, process in [*results, *again]}
    assert 1 <= len(own) <= 2 and os.getpid() not in own
    assert told == sorted(told) and told[-1] == 1.0
    assert not any(map(is_there, own)) and not multiprocessing.active_children()


def test_a_process_that_dies_costs_its_task_alone(tmp_path: Path) -> None:
    with Processes(2, work, tmp_path) as processes:
        results = processes.run(jobs(0, "once", 2, 3))
    assert [value for value, _ in results] == [0, "lives", 4, 9]
    assert len(begun(tmp_path, "once")) == 2
    assert all(len(begun(tmp_path, number)) == 1 for number in (0, 2, 3))


def test_a_task_whose_process_dies_twice_is_an_error_that_names_it(tmp_path: Path) -> None:
    with Processes(2, work, tmp_path) as processes, pytest.raises(EdgeSdkError) as caught:
        processes.run(jobs("dies", "sleeps"))
    assert "the job dies ended unfinished: signal 9, and so when it was tried again: give fewer" in str(caught.value)
    assert len(begun(tmp_path, "dies")) == 2
    assert not any(map(is_there, begun(tmp_path, "sleeps"))) and not multiprocessing.active_children()


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_of_a_task_comes_as_it_is(kind: str, tmp_path: Path) -> None:
    with Processes(2, work, tmp_path) as processes, pytest.raises(EdgeSdkError) as caught:
        processes.run(jobs(kind, 1))
    assert type(caught.value) is type(KINDS[kind]) and vars(caught.value) == vars(KINDS[kind])
    assert str(caught.value) == str(KINDS[kind])


def test_what_nobody_foresaw_comes_with_where_it_was(tmp_path: Path) -> None:
    with Processes(1, work, tmp_path) as processes, pytest.raises(RuntimeError, match="the job bug failed") as caught:
        processes.run(jobs("bug"))
    assert "1 // 0" in str(caught.value) and "ZeroDivisionError" in str(caught.value)


def test_what_cannot_be_sent_or_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unsendable):
        Processes(2, work, lambda: None)
    module = type(sys)("only_here")
    exec("class Shared: pass", module.__dict__)
    monkeypatch.setitem(sys.modules, "only_here", module)
    module.Shared.__module__ = "only_here"
    with Processes(2, work, module.Shared()) as processes, pytest.raises(Unsendable, match="only_here"):
        processes.run(jobs(1))
    with Processes(2, work, tmp_path) as processes, pytest.raises(Unsendable):
        processes.run(jobs(lambda: None))


def test_an_interrupt_leaves_nothing_running(tmp_path: Path) -> None:
    def interrupt(share: float) -> None:
        raise KeyboardInterrupt

    with Processes(2, work, tmp_path) as processes, pytest.raises(KeyboardInterrupt):
        processes.run(jobs("sleeps", "sleeps"), interrupt)
    assert not any(map(is_there, begun(tmp_path, "sleeps"))) and not multiprocessing.active_children()


SCRIPT = """
import sys
from pathlib import Path
sys.path[:0] = {path!r}
from test_processes import jobs, work
from edgesdk.core.processes import Processes, check_jobs
{body}
"""


def script(folder: Path, body: str) -> Path:
    (folder / "script.py").write_text(SCRIPT.format(path=[str(Path(__file__).parent), *sys.path], body=body))
    return folder / "script.py"


def test_a_script_without_a_guard_is_told_of_it(tmp_path: Path) -> None:
    body = "check_jobs(2)\nwith Processes(2, work, Path(sys.argv[1])) as p: print(p.run(jobs(1)))"
    done = subprocess.run([sys.executable, script(tmp_path, body), tmp_path], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.rstrip().endswith(GUARD)
    assert not list(tmp_path.glob("begun-*"))


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_processes_end_with_who_started_them(how: signal.Signals, tmp_path: Path) -> None:
    body = """
from test_processes import tells
if __name__ == "__main__":
    with Processes(1, tells, Path(sys.argv[1])) as processes:
        processes.run(jobs("waits"))
"""
    (tmp_path / "begun-waits").write_text("0\n")
    own = subprocess.Popen([sys.executable, script(tmp_path, body), tmp_path], stderr=subprocess.DEVNULL)
    while len(begun(tmp_path, "waits")) < 2 and own.poll() is None:
        time.sleep(0.02)
    own.send_signal(how)
    own.wait()
    process = begun(tmp_path, "waits")[1]
    for _ in range(500):
        if not is_there(process):
            break
        time.sleep(0.02)
    else:
        os.kill(process, signal.SIGKILL)
        pytest.fail("it was left running")


def tells(shared: Path, given: str, progress: Progress) -> None:
    """Tells how far it is until nobody hears it."""
    with (shared / f"begun-{given}").open("a") as log:
        log.write(f"{os.getpid()}\n")
    while True:
        progress(0.5)
        time.sleep(0.05)


@pytest.mark.parametrize("count", [0, -1, True, 1.5, "2"])
def test_a_number_of_processes_is_a_whole_one(count: Any) -> None:
    with pytest.raises(UsageError, match="give 1 or more"):
        check_jobs(count)
