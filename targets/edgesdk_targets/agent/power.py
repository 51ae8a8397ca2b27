"""What a board tells of its own power: counters of energy and sensors of power, in files that the kernel has.

``root`` is the folder in place of ``/``, so that a fixture tree can stand for any board.
"""

from __future__ import annotations

import os
import re
from typing import Callable, List, NamedTuple, Optional, Tuple

from edgesdk_targets.agent.sysfs import glob_files, read, read_int

JOULES, WATTS = "joules", "watts"
RAPL, INA3221, HWMON = "rapl", "ina3221", "hwmon"
# Of the rails of a Jetson's module that which feeds all others; without one the rails are added.
# https://docs.nvidia.com/jetson/archives/r36.3/DeveloperGuide/SD/PlatformPowerAndPerformance.html
INPUTS = ("VDD_IN", "POM_5V_IN")
UNUSED = "NC"  # what a channel without a rail is called
BOARDS = re.compile(r"power_meter|ina\d+|ltc\d+|pac\d+")  # hwmon chips that measure a supply, not a part like a GPU
DRIVERS = "sys/bus/i2c/drivers/"  # of JetPack 5 and later, and of 4
LOCKED = "its counters of energy may be read by root alone"


class Meter(NamedTuple):
    """What can be read: ``kind`` says whether joules since some time or watts now, ``counts`` of what."""

    source: str
    kind: str
    counts: str
    read: Callable[[], Optional[float]]


def find_meter(root: str = "/") -> Optional[Meter]:
    """The meter that this board has; ``None`` where there is none that may be read."""
    return _jetson(root) or _rapl(root) or _supply(root)


def is_locked(root: str = "/") -> bool:
    """Whether there are counters of energy that this process may not read."""
    paths = glob_files(root, "sys/class/powercap/intel-rapl:*/energy_uj")
    return bool(paths) and not any(os.access(os.path.join(root, path), os.R_OK) for path in paths)


class _Counter:
    """A counter of microjoules that begins at zero again beyond ``most``."""

    def __init__(self, root: str, path: str, most: Optional[int]) -> None:
        self.root, self.path, self.most = root, path, most
        self.last = read_int(root, path)
        self.total = 0

    def read(self) -> Optional[float]:
        now = read_int(self.root, self.path)
        if now is None or self.last is None:
            return None
        step = now - self.last
        if step < 0:
            step += (self.most or 0) + 1  # one that was reset, and did not wrap, is a jump then, as the host sees
        self.last, self.total = now, self.total + step
        return self.total / 1e6


def _rapl(root: str) -> Optional[Meter]:
    """Intel's and AMD's counters: of every package, and of memory where that is no part of it."""
    counters, names = [], []
    for path in glob_files(root, "sys/class/powercap/intel-rapl:*/energy_uj"):
        folder = os.path.dirname(path)
        name = read(root, os.path.join(folder, "name")) or ""
        if name.startswith("package") or name == "dram":
            counters.append(_Counter(root, path, read_int(root, os.path.join(folder, "max_energy_range_uj"))))
            names.append(name)
    if not counters or any(counter.last is None for counter in counters):
        return None
    return Meter(RAPL, JOULES, ", ".join(names), lambda: _sum([counter.read() for counter in counters]))


def _jetson(root: str) -> Optional[Meter]:
    """The INA3221 sensors of a Jetson: volts times amperes in newer drivers, milliwatts in those before."""
    rails: List[Tuple[str, Callable[[], Optional[float]]]] = []
    for path in glob_files(root, DRIVERS + "ina3221/*/hwmon/hwmon*/in[123]_label"):
        folder, channel = os.path.dirname(path), os.path.basename(path)[2]
        volts, amperes = (os.path.join(folder, f"{what}{channel}_input") for what in ("in", "curr"))
        if read_int(root, os.path.join(folder, f"in{channel}_enable")) != 0:
            rails.append((read(root, path) or UNUSED, _product(root, volts, amperes)))
    for path in glob_files(root, DRIVERS + "ina3221x/*/iio:device*/rail_name_[0-9]"):
        power = os.path.join(os.path.dirname(path), f"in_power{path[-1]}_input")
        rails.append((read(root, path) or UNUSED, _scaled(root, power, 1e-3)))
    rails = [(name, rail) for name, rail in rails if name != UNUSED and rail() is not None]
    rails = [rail for rail in rails if rail[0] in INPUTS][:1] or rails
    if not rails:
        return None
    counts = ", ".join(name for name, _ in rails)
    return Meter(INA3221, WATTS, counts, lambda: _sum([rail() for _, rail in rails]))


def _supply(root: str) -> Optional[Meter]:
    """A sensor of the board's supply, of any other kind that the kernel has a driver for."""
    for folder in glob_files(root, "sys/class/hwmon/hwmon*"):
        name = read(root, os.path.join(folder, "name")) or ""
        if not BOARDS.fullmatch(name) or name == INA3221:
            continue
        for what in ("power1_input", "power1_average"):
            sensor = _scaled(root, os.path.join(folder, what), 1e-6)
            if sensor() is not None:
                return Meter(HWMON, WATTS, name, sensor)
    return None


def _scaled(root: str, path: str, unit: float) -> Callable[[], Optional[float]]:
    def scaled() -> Optional[float]:
        value = read_int(root, path)
        return None if value is None else value * unit

    return scaled


def _product(root: str, volts: str, amperes: str) -> Callable[[], Optional[float]]:
    """Watts of two files in mV and mA."""

    def product() -> Optional[float]:
        millivolts, milliamperes = read_int(root, volts), read_int(root, amperes)
        return None if millivolts is None or milliamperes is None else millivolts * milliamperes / 1e6

    return product


def _sum(values: List[Optional[float]]) -> Optional[float]:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None
