"""Energy of files on a device: read from a meter of its own, or from one beside it."""

from __future__ import annotations

import csv
import os
import re
import shlex
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from math import inf
from pathlib import Path
from typing import IO, Any

from edgesdk.core.artifact import Artifact
from edgesdk.core.energy import ABSENT, LOCKED, WATTS, Energy, Phase, Readings, figure_energy
from edgesdk.core.errors import DeviceError, UsageError
from edgesdk.devices.agent import AgentProcess
from edgesdk_targets.agent.measure import BRIEF

ROUNDS: dict[str, tuple[int, float]] = {
    BRIEF: (3, 0.4), "rapid": (3, 1.0), "quick": (5, 2.0), "full": (10, 6.0), "sustained": (10, 6.0),
}  # fmt: skip
"""How many rounds there are in each mode, and the seconds of each file in one."""
FIRST_SECONDS, LAST_SECONDS = 10.0, 5.0  # to wait for the first reading of a meter, and for the last
NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
TIMES, POWERS = ("time", "timestamp"), ("watts", "power")
Taken = list[tuple[float, float]]
SHOWN, LONGEST = 200, 4096  # letters of a line: that are shown, and that are read at once
LEAST_SECONDS = 1e-3  # between two readings of a command that count


def has_meter(facts: Mapping[str, Any]) -> bool:
    """Whether the device that said these ``facts`` has a meter of its energy that can be read."""
    return facts.get("energy") not in ABSENT


def check_own_meter(where: str, facts: Mapping[str, Any]) -> None:
    """Raise ``DeviceError`` where the device that said these ``facts`` has no meter that a budget could go by."""
    if facts.get("energy") == LOCKED:
        remedy = "sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj there, or bound something else"
        raise DeviceError(f"{where} has counters of energy that root alone may read", remedy)
    if not has_meter(facts):
        fact = f"{where} has no meter of its energy that can be read, which a bound on energy needs"
        raise DeviceError(fact, "give a --device that has one (RAPL, INA3221 or hwmon), or bound something else")


def check_meter(meter: str) -> None:
    """Raise ``UsageError`` where ``meter`` is neither a command that can be started nor a .csv file of a meter."""
    if _is_csv(meter):
        _parse_csv(Path(meter))
        return
    try:
        words = shlex.split(meter)
    except ValueError as error:
        raise UsageError(f"--meter {meter!r} is no command: {error}", _REMEDY) from None
    if not words:
        raise UsageError("--meter without a command", _REMEDY)
    if shutil.which(words[0]) is None:
        why = "it is not executable" if os.path.isfile(words[0]) else f"there is no command {words[0]!r}"
        raise UsageError(f"--meter {meter!r} cannot be run: {why}", _REMEDY)


def measure_energy(
    agent: AgentProcess, files: Mapping[str, Artifact], threads: int, mode: str, meter: str | None = None
) -> dict[str, Energy]:
    """What a run of each of ``files`` takes, by their names, by the device's own meter.

    ``meter`` is of another: a command that prints watts, a line each, or a .csv file that its program writes meanwhile,
    on this machine. Raises ``DeviceError`` where there is no meter that can be read, ``UsageError`` for one that is
    neither.
    """
    rounds, seconds = ROUNDS[mode]
    asked: dict[str, Any] = {
        "artifacts": [
            {"name": name, "path": agent.place(*file.files), "runtime": file.runtime} for name, file in files.items()
        ],
        "runtime": next(iter(files.values())).runtime,
        "threads": threads, "rounds": rounds, "seconds": seconds,
    }  # fmt: skip
    if meter is None:
        answer = agent.call("energy", **asked)
        own = answer["meter"]
        readings = Readings.of(own["kind"], answer["readings"], f"{own['source']} ({own['counts']})")
        phases = [Phase(**phase) for phase in answer["phases"]]
    else:
        late = [inf]  # by how much, at the least, this machine's clock is ahead of the device's

        def stamp(progress: Mapping[str, Any]) -> None:
            if "at" in progress:
                late[0] = min(late[0], time.time() - progress["at"])

        with open_meter(meter) as read:
            answer = agent.call("energy", external=True, on_progress=stamp, **asked)
            phases = [
                Phase(each["artifact"], each["begin"] + late[0], each["end"] + late[0], each["runs"])
                for each in answer["phases"]
            ]
            readings = read(phases[-1].end)
    agent.forget()
    return {name: figure_energy(readings, phases, name) for name in files}


@contextmanager
def open_meter(meter: str) -> Generator[Callable[[float], Readings]]:
    """A function that gives what ``meter`` said until a time on this machine's clock.

    ``meter`` is a .csv file or a command.
    """
    check_meter(meter)
    if _is_csv(meter):
        yield lambda until: _read_csv(Path(meter), until)
    else:
        with _Command(meter) as command:
            yield command.read


def _is_csv(meter: str) -> bool:
    return Path(meter).suffix.lower() == ".csv"


class _Command:
    """A command that prints watts, a line each: the last number of a line counts, and when it came."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.taken: Taken = []
        self._said: list[str] = []
        self._other = ""  # the last line that had no number

    def __enter__(self) -> _Command:
        try:
            self._process = subprocess.Popen(
                shlex.split(self.text), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                text=True, bufsize=1, encoding="utf-8", errors="replace",
            )  # fmt: skip
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise UsageError(f"--meter {self.text!r} cannot be run: {why}", _REMEDY) from None
        self._threads = [threading.Thread(target=each, daemon=True) for each in (self._listen, self._listen_errors)]
        for thread in self._threads:
            thread.start()
        end = time.monotonic() + FIRST_SECONDS
        while not self.taken and self._process.poll() is None and time.monotonic() < end:
            time.sleep(0.02)
        if not self.taken:
            self.__exit__()  # which waits for the last that it said
        if not self.taken:
            said = f"no number, but {self._other!r}" if self._other else "nothing"
            raise DeviceError(f"--meter {self.text!r} says {said}{self._ending()}", _REMEDY)
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(LAST_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
        for thread in self._threads:
            thread.join(LAST_SECONDS)

    def _listen(self) -> None:
        assert self._process.stdout is not None
        last = -inf
        for line in _lines(self._process.stdout):
            numbers, now = NUMBER.findall(line), time.time()
            if not numbers:
                self._other = line.strip()[:SHOWN] or self._other
            elif now - last >= LEAST_SECONDS:
                self.taken.append((now, float(numbers[-1])))
                last = now

    def _listen_errors(self) -> None:
        assert self._process.stderr is not None
        for line in _lines(self._process.stderr):
            self._said[:] = [line.strip()[:SHOWN]] if line.strip() else self._said

    def _ending(self) -> str:
        code = self._process.poll()
        words = f": {self._said[0]}" if self._said else ""
        return words if code is None or code < 0 else f", and ended with exit code {code}{words}"

    def read(self, until: float) -> Readings:
        end = time.monotonic() + LAST_SECONDS
        while self.taken[-1][0] < until and self._process.poll() is None and time.monotonic() < end:
            time.sleep(0.02)
        return Readings.of(WATTS, self.taken, self.text, self._ending())


def _lines(stream: IO[str]) -> Iterator[str]:
    """What comes, line by line; of one without end a part at a time."""
    return iter(lambda: stream.readline(LONGEST), "")


_REMEDY = "give a command that prints watts, a line each, or a .csv with the columns time and watts"


def _read_csv(path: Path, until: float) -> Readings:
    """What ``path`` has, once it has a row as late as ``until``, or has had the time for it."""
    end = time.monotonic() + LAST_SECONDS
    while True:
        taken = _parse_csv(path)
        if (taken and max(taken)[0] >= until) or time.monotonic() >= end:
            return Readings.of(WATTS, taken, path.name)
        time.sleep(0.2)


def _parse_csv(path: Path) -> Taken:
    """The rows of ``path``: a time, in seconds since 1970 or as ISO 8601, and watts, or volts and amperes.

    A last row that is being written is left for later. Raises ``UsageError`` for what has no such columns.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.reader(file))
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"--meter {path} cannot be read ({why})", _REMEDY) from None
    names = [name.strip().lower() for name in rows[0]] if rows else []
    time_at = next((names.index(name) for name in TIMES if name in names), None)
    power_at = next((names.index(name) for name in POWERS if name in names), None)
    pair = [names.index(name) for name in ("volts", "amperes") if name in names]
    if time_at is None or (power_at is None and len(pair) < 2):
        raise UsageError(f"--meter {path} has the columns {', '.join(names) or '(none)'}", _REMEDY)
    taken: Taken = []
    for row in rows[1:]:
        try:
            watts = float(row[power_at]) if power_at is not None else float(row[pair[0]]) * float(row[pair[1]])
            taken.append((_parse_time(row[time_at]), watts))
        except (ValueError, IndexError):
            continue
    return taken


def _parse_time(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return datetime.fromisoformat(text.strip().replace("Z", "+00:00")).timestamp()
