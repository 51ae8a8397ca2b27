"""Facts of the board, and the conditions that change while it works. Every one may be absent and is null then.

Readers of files take ``root``, the folder in place of ``/``, so that a fixture tree can stand for any board.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import struct
import subprocess
import sys
from typing import Any

from edgesdk_targets.agent import power
from edgesdk_targets.agent.protocol import Report
from edgesdk_targets.agent.runners import RUNNERS, every_runner, how_to_get
from edgesdk_targets.agent.sysfs import glob_files, read, read_int

FEATURES = {
    **{name: name for name in ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "avx512_bf16")},
    **{name: name for name in ("neon", "asimd", "asimddp", "i8mm")},
    "asimdhp": "fp16",
}
# Part numbers of Arm Ltd. and of NVIDIA, from the Main ID Register as Linux tells it in /proc/cpuinfo.
ARM_PARTS = {
    **{"0xd03": "Cortex-A53", "0xd04": "Cortex-A35", "0xd05": "Cortex-A55", "0xd07": "Cortex-A57"},
    **{"0xd08": "Cortex-A72", "0xd09": "Cortex-A73", "0xd0a": "Cortex-A75", "0xd0b": "Cortex-A76"},
    **{"0xb76": "ARM1176", "0xc07": "Cortex-A7", "0xc08": "Cortex-A8", "0xc09": "Cortex-A9", "0xc0f": "Cortex-A15"},
    **{"0xd0c": "Neoverse-N1", "0xd41": "Cortex-A78", "0xd42": "Cortex-A78AE", "0xd40": "Neoverse-V1"},
}
NVIDIA_PARTS = {"0x003": "Denver 2", "0x004": "Carmel"}
PARTS = {"0x41": ("Arm", ARM_PARTS), "0x4e": ("NVIDIA", NVIDIA_PARTS)}  # by the implementer
# https://www.raspberrypi.com/documentation/computers/os.html#get_throttled: bits 0 to 3 are now, 16 to 19 since boot.
THROTTLE_BITS = ("undervoltage", "frequency capped", "throttled", "soft temperature limit")
COUNTERS = {  # by what keeps them
    "soctherm_oc": "sys/class/hwmon/hwmon*/oc*_event_cnt",
    "thermal_throttle": "sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/*_throttle_count",
}
COMMAND_SECONDS = 5
GRAPHICS = re.compile(r"\.(?:gpu|gp10b|gv11b|ga10b|gb10b)$")  # of Nano, TX2, Xavier, Orin and Thor


def probe(report: Report, *, root: str = "/") -> dict[str, Any]:
    """What this board is: processor, memory, system, runtimes, and its present conditions."""
    present = installed_runners()
    return {
        **cpu(root),
        "architecture": platform.machine() or None,
        "userland_bits": struct.calcsize("P") * 8,
        "memory_bytes": memory_bytes(root),
        "cache_kb": cache_kb(root),
        "kernel": read(root, "proc/sys/kernel/osrelease"),
        "os": os_name(root),
        "board": board(root),
        "l4t": l4t(root),
        "emulated": emulated(root),
        "energy": energy(root),
        "python": platform.python_version(),
        "glibc": platform.libc_ver()[1] or None,
        "runtimes": runtimes(),
        "runners": present,
        "wheels": {name: how_to_get(name) for name in RUNNERS if name not in present},
        "conditions": conditions(root),
    }


def conditions(root: str = "/") -> dict[str, Any]:
    """What bears on a measurement and may change during it."""
    return {
        "governor": governor(root),
        "power_mode": power_mode(root),
        "frequencies": frequencies(root),
        "graphics": graphics(root),
        "temperatures": temperatures(root),
        "throttle": throttle(root),
        "load": load_average(root),
        "usable_cores": usable_cores(),
    }


def moment(root: str = "/") -> dict[str, float | None]:
    """Of these what is worth a look while a run lasts: the hottest sensor, ``celsius``, and the slowest core, ``mhz``.

    ``None`` where the device does not tell it.
    """
    zones, cores = temperatures(root) or [], frequencies(root) or []
    return {
        "celsius": max((zone["celsius"] for zone in zones if zone["celsius"] is not None), default=None),
        "mhz": min((core["mhz"] for core in cores if core["mhz"] is not None), default=None),
    }


def throttled(before: dict[str, Any], after: dict[str, Any]) -> str | None:
    """Why a measurement between these conditions is not valid; ``None`` where nothing says so."""
    reasons: list[str] = []
    was, now = before["throttle"] or {}, after["throttle"] or {}
    for name in was.get("now", []):
        reasons.append(f"{name} before the run")
    for name in now.get("now", []):
        reasons.append(f"{name} after the run")
    for name in now.get("since_boot", []):
        if name not in was.get("since_boot", []) and name not in now["now"]:
            reasons.append(f"{name} during the run")
    if (now.get("events") or 0) > (was.get("events") or 0):
        reasons.append("the processor throttled during the run")
    modes = before.get("power_mode"), after.get("power_mode")
    if modes[0] != modes[1] and None not in modes:
        reasons.append("the power mode changed from {} to {} during the run".format(*modes))
    return ", ".join(reasons) or None


def cpu(root: str) -> dict[str, Any]:
    """The processor's model, the number of cores, and which of ``FEATURES`` it has."""
    text = read(root, "proc/cpuinfo")
    entries = re.findall(r"^([\w ]+?)[ \t]*:[ \t]*(.*)$", text or "", re.MULTILINE)
    first: dict[str, str] = {}
    for name, value in entries:
        first.setdefault(name, value)
    flags = first.get("flags", first.get("Features"))
    has = set((flags or "").split())
    maker, names = PARTS.get(first.get("CPU implementer", ""), ("", {}))
    parts = sorted({value for name, value in entries if name == "CPU part"}) if maker else []
    named = " + ".join(names.get(part, f"{maker} part {part}") for part in parts)
    return {
        "cpu": named or first.get("model name") or None,
        "cores": _cores(root) or sum(name == "processor" for name, _ in entries) or None,
        "features": None if flags is None else [FEATURES[name] for name in FEATURES if name in has],
    }


def emulated(root: str = "/") -> bool:
    """Whether QEMU's user mode runs this process, or ``EDGESDK_EMULATED`` says that something like it does.

    The emulator keeps its own name in the process's status. Where the kernel started it for a foreign program, that
    has the program's, and the file that the thread runs has the emulator's: of all links to it, QEMU answers for those
    below ``self`` and the process's number alone.
    """
    if os.environ.get("EDGESDK_EMULATED") == "1":
        return True
    name = re.match(r"Name:\s*(\S+)", read(root, "proc/self/status") or "")
    try:
        program = os.path.basename(os.readlink(os.path.join(root, "proc/thread-self/exe")))
    except OSError:
        program = ""
    return program.startswith("qemu-") or bool(name and name.group(1).startswith("qemu-"))


def _cores(root: str) -> int | None:
    ranges = read(root, "sys/devices/system/cpu/online")
    if ranges is None or not re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", ranges):
        return None
    ends = [part.split("-") for part in ranges.split(",")]
    return sum(int(end[-1]) - int(end[0]) + 1 for end in ends)


def usable_cores() -> list[int] | None:
    """The numbers of the cores that this process may run on."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def memory_bytes(root: str) -> int | None:
    """The memory of the board that the kernel can use."""
    match = re.search(r"^MemTotal:\s*(\d+) kB", read(root, "proc/meminfo") or "", re.MULTILINE)
    return int(match.group(1)) * 1024 if match else None


def cache_kb(root: str) -> int | None:
    """The second-level cache of the first core, in KiB."""
    size = re.fullmatch(r"(\d+)([KM])", read(root, "sys/devices/system/cpu/cpu0/cache/index2/size") or "")
    return int(size.group(1)) * {"K": 1, "M": 1024}[size.group(2)] if size else None


def os_name(root: str) -> str | None:
    """The system's name as ``/etc/os-release`` gives it."""
    text = read(root, "etc/os-release") or read(root, "usr/lib/os-release") or ""
    match = re.search(r"^PRETTY_NAME=[\"']?(.*?)[\"']?$", text, re.MULTILINE)
    return match.group(1) if match else None


def board(root: str) -> str | None:
    """The board's name, from the device tree or, on a Raspberry Pi without it, from ``/proc/cpuinfo``."""
    match = re.search(r"^Model\s*: (.+)$", read(root, "proc/cpuinfo") or "", re.MULTILINE)
    return read(root, "proc/device-tree/model") or (match.group(1) if match else None)


def l4t(root: str) -> dict[str, Any] | None:
    """The release of Jetson Linux: its number, such as 35.4.1, and the first line of the release file."""
    text = read(root, "etc/nv_tegra_release")
    if text is None:
        return None
    match = re.search(r"# R(\d+) .*?REVISION: ([\d.]+)", text)
    release = f"{match.group(1)}.{match.group(2)}" if match else None
    return {"release": release, "text": text.splitlines()[0]}


def governor(root: str) -> str | None:
    """The cores' frequency governor; several, where they differ, joined by commas."""
    governors = {
        read(root, path) for path in glob_files(root, "sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor")
    }
    return ", ".join(sorted(name for name in governors if name)) or None


def power_mode(root: str) -> str | None:
    """A Jetson's power mode, which bounds its clocks and cores: its name, or its number where that alone is told."""
    command = shutil.which("nvpmodel") if root == "/" else None
    named = re.search(r"NV Power Mode: (\S+)", (_output([command, "-q"]) if command else None) or "")
    number = re.search(r"pmode:(\d+)", read(root, "var/lib/nvpmodel/status") or "")
    return named.group(1) if named else str(int(number.group(1))) if number else None


def frequencies(root: str) -> list[dict[str, Any]] | None:
    """Per core ``{"core", "mhz", "maximum_mhz"}``; from ``/proc/cpuinfo`` where nothing else tells it."""
    cores = []
    for folder in glob_files(root, "sys/devices/system/cpu/cpu[0-9]*/cpufreq"):
        now, most = (read_int(root, os.path.join(folder, f"scaling_{name}_freq")) for name in ("cur", "max"))
        name = os.path.basename(os.path.dirname(folder))
        cores.append({"core": int(name[3:]), "mhz": _thousandth(now), "maximum_mhz": _thousandth(most)})
    if not cores:
        speeds = re.findall(r"^cpu MHz\s*: ([\d.]+)", read(root, "proc/cpuinfo") or "", re.MULTILINE)
        cores = [{"core": core, "mhz": float(mhz), "maximum_mhz": None} for core, mhz in enumerate(speeds)]
    return sorted(cores, key=lambda item: item["core"]) or None


def graphics(root: str) -> dict[str, Any] | None:
    """The clock of a Jetson's GPU, ``{"mhz", "maximum_mhz"}``."""
    for folder in glob_files(root, "sys/class/devfreq/*"):
        if GRAPHICS.search(os.path.basename(folder)):
            hertz = (read_int(root, os.path.join(folder, f"{name}_freq")) for name in ("cur", "max"))
            now, most = (None if each is None else each / 1e6 for each in hertz)
            return {"mhz": now, "maximum_mhz": most}
    return None


def temperatures(root: str) -> list[dict[str, Any]] | None:
    """Per thermal zone ``{"zone", "type", "celsius"}``."""
    zones = []
    for folder in glob_files(root, "sys/class/thermal/thermal_zone*"):
        celsius = _thousandth(read_int(root, os.path.join(folder, "temp")))
        kind = read(root, os.path.join(folder, "type"))
        zones.append({"zone": os.path.basename(folder), "type": kind, "celsius": celsius})
    return zones or None


def throttle(root: str) -> dict[str, Any] | None:
    """Whether the board holds its processor back: ``{"source", "now", "since_boot"}``, or a count of ``events``.

    From ``vcgencmd`` on a Raspberry Pi, else from its hwmon driver, which knows of undervoltage alone and looks every
    two seconds; from a Jetson's counters of over-current (Jetson Linux Developer Guide, "Power and Performance"); else
    from Intel's counters.
    """
    command = shutil.which("vcgencmd") if root == "/" else None
    flags = decode_throttled(_output([command, "get_throttled"])) if command else None
    if flags is not None:
        return {"source": "vcgencmd", **flags}
    for folder in glob_files(root, "sys/class/hwmon/hwmon*"):
        if read(root, os.path.join(folder, "name")) == "rpi_volt":
            alarm = read_int(root, os.path.join(folder, "in0_lcrit_alarm"))
            if alarm is not None:
                return {"source": "hwmon", "now": [THROTTLE_BITS[0]] if alarm else [], "since_boot": []}
    for source, pattern in COUNTERS.items():
        counts = [count for count in (read_int(root, path) for path in glob_files(root, pattern)) if count is not None]
        if counts:
            return {"source": source, "events": sum(counts)}
    return None


def decode_throttled(text: str | None) -> dict[str, list[str]] | None:
    """What ``vcgencmd get_throttled`` says, such as ``throttled=0x50005``; ``None`` where it says nothing."""
    match = re.search(r"throttled=(0x[0-9a-fA-F]+)", text or "")
    if match is None:
        return None
    bits = int(match.group(1), 16)
    return {
        "now": [name for index, name in enumerate(THROTTLE_BITS) if bits >> index & 1],
        "since_boot": [name for index, name in enumerate(THROTTLE_BITS) if bits >> (16 + index) & 1],
    }


def load_average(root: str) -> list[float] | None:
    """The system's load over 1, 5 and 15 minutes."""
    match = re.match(r"([\d.]+) ([\d.]+) ([\d.]+) ", read(root, "proc/loadavg") or "")
    return [float(value) for value in match.groups()] if match else None


def energy(root: str) -> str:
    """Where energy is read: ``rapl``, ``ina3221``, ``hwmon``; ``locked`` where root alone may, or ``unavailable``."""
    meter = power.find_meter(root)
    return meter.source if meter is not None else "locked" if power.is_locked(root) else "unavailable"


def runtimes() -> dict[str, str]:
    """The versions of the runtimes that are installed, by the name of their distribution."""
    from importlib import metadata

    versions = {}
    for name in (name for runner in every_runner().values() for name in runner.distributions):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def installed_runners() -> dict[str, str]:
    """The versions of the runtimes that are installed, by the name of their runner."""
    versions = runtimes()
    installed = {}
    for name, runner in every_runner().items():
        told = runner.version() if runner.version is not None else None
        if present := [versions[each] for each in runner.distributions if each in versions] or [told] * bool(told):
            installed[name] = present[0]
    return installed


def _output(command: list[str]) -> str | None:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=COMMAND_SECONDS, check=False
        )
    except (OSError, subprocess.SubprocessError) as error:
        print(f"{command[0]}: {error}", file=sys.stderr)
        return None
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else None


def _thousandth(value: int | None) -> float | None:
    return None if value is None else value / 1000
