"""Energy of files here, by a meter that says what this machine would take by what the agent computes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from scripted import with_script

from edgesdk.core.artifact import Artifact
from edgesdk.core.energy import Energy
from edgesdk.core.errors import DeviceError, EdgeSdkError, UsageError
from edgesdk.core.report import DENSE, Report
from edgesdk.devices.bench import Bench
from edgesdk.devices.energy import measure_energy, open_meter
from edgesdk.devices.local import LocalDevice
from edgesdk.pipeline.study import Study

# 4 W, and 20 W for each core that the processes of a parent keep busy, the meter itself aside; for a minute at most.
METER = """
import os, sys, time
parent, csv = int(sys.argv[1]), sys.argv[2:3]
def busy():
    total = 0
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            fields = open(f"/proc/{name}/stat").read().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent and int(name) != os.getpid():
            total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")
file = open(csv[0], "a") if csv else sys.stdout
if csv:
    print("time,watts", file=file, flush=True)
before, last = busy(), time.time()
for _ in range(1000):
    time.sleep(0.06)
    now, at = busy(), time.time()
    watts = 4.0 + 20.0 * max(now - before, 0.0) / (at - last)
    print(f"{at:.3f},{watts:.3f}" if csv else f"power {watts:.3f} W", file=file, flush=True)
    before, last = now, at
"""
RAPL = """
import os, sys, time
folder, parent = sys.argv[1], int(sys.argv[2])
exec(open(sys.argv[3]).read().partition("file =")[0].replace("int(sys.argv[1]), sys.argv[2:3]", "parent, []"))
begun, first = time.time(), busy()
for _ in range(3000):
    with open(folder + "/new", "w") as file:
        print(int(1e6 * (4.0 * (time.time() - begun) + 20.0 * (busy() - first))), file=file)
    os.replace(folder + "/new", folder + "/energy_uj")
    time.sleep(0.02)
"""
TINY = Path(str(resources.files("edgesdk_targets") / "baselines" / "reference-arithmetic.onnx"))


@pytest.mark.parametrize("kind", ["command", "csv"])
def test_a_meter_beside_the_device_is_set_beside_what_ran(tmp_path: Path, kind: str) -> None:
    (tmp_path / "meter.py").write_text(METER)
    command = [sys.executable, str(tmp_path / "meter.py"), str(os.getpid())]
    file = tmp_path / "power.csv"
    beside = subprocess.Popen([*command, str(file)]) if kind == "csv" else None
    try:
        while beside is not None and not (file.exists() and file.stat().st_size):  # its columns are there
            assert beside.poll() is None
        meter = " ".join(command) if beside is None else str(file)
        with LocalDevice() as agent:
            taken = measure_energy(agent, {"a": Artifact(TINY, runtime="onnxruntime")}, 1, "brief", meter)
    finally:
        if beside is not None:
            beside.kill()
            beside.wait()
    energy = taken["a"]
    assert energy.watts is not None and energy.idle_watts is not None, energy
    assert 3.9 < energy.idle_watts < energy.watts < 30.0
    assert energy.mj is not None and 0 < energy.mj < (energy.gross_mj or 0.0)
    assert energy.rounds >= 2 and energy.meter == (meter if kind == "command" else "power.csv")


class Metered(LocalDevice):
    """This machine, with the counters of energy below ``root``."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root

    def call(self, verb: str, **arguments: Any) -> dict[str, Any]:
        own: dict[str, Any] = {"root": str(self.root)} if verb == "energy" else {}
        answer = super().call(verb, **arguments, **own)
        return {**answer, "energy": "rapl"} if verb == "probe" else answer


def test_a_device_that_has_a_meter_is_asked_for_its_energy(tmp_path: Path) -> None:
    zone = tmp_path / "sys" / "class" / "powercap" / "intel-rapl:0"
    zone.mkdir(parents=True)
    (zone / "name").write_text("package-0\n")
    (tmp_path / "meter.py").write_text(METER)
    (tmp_path / "rapl.py").write_text(RAPL)
    script = [str(tmp_path / "rapl.py"), str(zone), str(os.getpid()), str(tmp_path / "meter.py")]
    beside = subprocess.Popen([sys.executable, *script])
    try:
        while not (zone / "energy_uj").exists():
            assert beside.poll() is None
        with Metered(tmp_path) as agent:
            energy = Bench(agent).measure_energy({"a": Artifact(TINY, runtime="onnxruntime")}, "brief")["a"]
    finally:
        beside.kill()
        beside.wait()
    assert energy.meter == "rapl (package-0)" and energy.rounds >= 2
    assert energy.mj is not None and 3.9 < (energy.idle_watts or 0.0) < (energy.watts or 0.0) < 30.0
    with LocalDevice() as agent:
        bench = Bench(agent)
        bench.facts = {**bench.facts, "energy": "unavailable"}
        assert bench.measure_energy({"a": Artifact(TINY, runtime="onnxruntime")}, "brief") == {}


def test_the_last_measurement_of_a_deployment_has_it_and_no_other(study: Study) -> None:
    energy = Energy(3.0, 0.1, 5.0, 8.0, 4.0, 3, "a meter")
    metered = with_script(study, measured=True, power=lambda name, ms: replace(energy, mj=2.0 * ms))
    files = {DENSE: metered.dense_file}
    last = metered.measure(files, thorough=True)[DENSE]
    assert isinstance(last, Report) and last.energy == replace(energy, mj=2.0 * last.latency_ms())
    before = metered.measure(files)[DENSE]
    assert isinstance(before, Report) and before.energy is None
    predicted = with_script(study, power=None).measure(files, thorough=True)[DENSE]
    assert not isinstance(predicted, Report)


@pytest.mark.parametrize(
    ("meter", "error", "says"),
    [
        ("nosuch-meter --watts", UsageError, "cannot be run: there is no command 'nosuch-meter'"),
        ("./meter.sh --watts", UsageError, "cannot be run: it is not executable"),
        ("./noise", UsageError, "cannot be run: Exec format error"),
        ("'unbalanced", UsageError, "is no command: No closing quotation"),
        (" ", UsageError, "--meter without a command"),
        ("echo ready, no reading yet", DeviceError, "says no number, but 'ready, no reading yet', and ended with exit"),
        (r"printf \\377\\376\\n", DeviceError, "says no number, but '\ufffd\ufffd', and ended with exit code 0"),
        ("true", DeviceError, "says nothing, and ended with exit code 0"),
        (f"{sys.executable} -c 'import sys; sys.exit(\"no port\")'", DeviceError, "exit code 1: no port"),
        ("gone.csv", UsageError, "cannot be read"),
        ("empty.csv", UsageError, "has the columns (none)"),
        ("other.csv", UsageError, "has the columns when, watts"),
    ],
)
def test_what_is_no_meter_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, meter: str, error: type[EdgeSdkError], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.csv").write_text("")
    Path("other.csv").write_text("when,watts\n1,2\n")
    Path("meter.sh").write_text("#!/bin/sh\necho 3\n")
    Path("noise").write_bytes(bytes(range(1, 200)))
    Path("noise").chmod(0o755)
    with pytest.raises(error) as caught, open_meter(meter) as read:
        read(0.0)
    assert says in caught.value.fact and "columns time and watts" in caught.value.remedy


@pytest.mark.parametrize(
    "script",
    [
        "while True: print(5)",
        "import sys\nprint(5, flush=True)\nwhile True: sys.stdout.write('x')",  # a line without an end
        "import os\nprint(5, flush=True)\nos.abort()",
        "print(5)",
    ],
)
def test_a_meter_that_floods_or_dies_is_read_as_far_as_it_makes_sense(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    monkeypatch.setattr("edgesdk.devices.energy.LAST_SECONDS", 0.5)
    (tmp_path / "meter.py").write_text(script)
    begun = time.time()
    with open_meter(f"{sys.executable} {tmp_path / 'meter.py'}") as read:
        readings = read(begun + 0.3)
    assert set(readings.values) == {5.0} and len(readings.times) < 2000


def test_times_and_figures_are_read_as_meters_write_them(tmp_path: Path) -> None:
    file = tmp_path / "power.csv"
    for text in (
        "time,watts\n10,2.5\n11,3\n12",  # a row that is being written
        "\ufeffTimestamp, Power \n1970-01-01T00:00:10Z,2.5\n1970-01-01T00:00:11+00:00,3\n?,4\n",
        "volts,amperes,time\n5,0.5,10\n6,0.5,11\n",
    ):
        file.write_text(text, "utf-8")
        with open_meter(str(file)) as read:
            readings = read(11.0)
        assert readings.times == (10.0, 11.0) and readings.values == (2.5, 3.0)
