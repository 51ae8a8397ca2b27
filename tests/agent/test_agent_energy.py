"""Meters of boards that are not here, as trees of files; and a run beside one."""

from __future__ import annotations

import glob
import os
import tempfile
import threading
import time
import unittest

import agent_models
from agent_boards import AGX_ORIN, NANO, ORIN, PI_4, RAPL, SERVER, plant

from edgesdk_targets.agent import energy, power, probe
from edgesdk_targets.agent.protocol import AgentError


class OnBoard(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = folder.name

    def meter(self, files: dict) -> power.Meter:
        meter = power.find_meter(plant(self.root, files))
        assert meter is not None
        return meter

    def assertReads(self, meter: power.Meter, value: float) -> None:
        read = meter.read()
        assert read is not None
        self.assertAlmostEqual(read, value)

    def write(self, path: str, value: object) -> None:
        plant(self.root, {path: f"{value}\n"})


class Meters(OnBoard):
    def test_a_jetson_whose_input_is_measured_is_that_rail(self):
        meter = self.meter(ORIN)
        self.assertEqual((meter.source, meter.kind, meter.counts), ("ina3221", "watts", "VDD_IN"))
        self.assertReads(meter, 5.0 * 1.2)

    def test_a_jetson_without_such_a_rail_is_their_sum_but_for_what_is_not_connected(self):
        meter = self.meter(AGX_ORIN)
        self.assertEqual(meter.counts, "VDD_GPU_SOC, VDD_CPU_CV, VIN_SYS_5V0, VDDQ_VDD2_1V8AO")
        self.assertReads(meter, 3.2 + 0.8 + 2.5 + 0.5)

    def test_an_older_driver_tells_milliwatts(self):
        meter = self.meter(NANO)
        self.assertEqual((meter.source, meter.counts), ("ina3221", "POM_5V_IN"))
        self.assertReads(meter, 2.317)

    def test_counters_of_packages_and_memory_are_added_and_wrap(self):
        meter = self.meter(RAPL)
        self.assertEqual((meter.source, meter.kind), ("rapl", "joules"))
        self.assertEqual(meter.counts, "package-0, dram, package-1")
        self.assertEqual(meter.read(), 0.0)
        self.write("sys/class/powercap/intel-rapl:0/energy_uj", 262143328850 - 1_000_000)
        self.write("sys/class/powercap/intel-rapl:0:0/energy_uj", 9_000_000)  # the cores are in the package
        self.write("sys/class/powercap/intel-rapl:0:1/energy_uj", 1_500_000)
        self.assertReads(meter, 1.0 + 0.5)
        self.write("sys/class/powercap/intel-rapl:0/energy_uj", 999_999)
        self.assertReads(meter, 1.5 + 2.0)
        os.remove(os.path.join(self.root, "sys/class/powercap/intel-rapl:1/energy_uj"))
        self.assertIsNone(meter.read())

    def test_a_supply_is_one_and_a_part_of_the_board_is_none(self):
        meter = self.meter(SERVER)
        self.assertEqual((meter.source, meter.kind, meter.counts), ("hwmon", "watts", "power_meter"))
        self.assertReads(meter, 98.5)
        self.assertIsNone(power.find_meter(plant(os.path.join(self.root, "other"), {
            "sys/class/hwmon/hwmon0/name": "amdgpu\n", "sys/class/hwmon/hwmon0/power1_average": "98500000\n",
        })))  # fmt: skip

    def test_what_says_nothing_that_can_be_read_is_no_meter(self):
        for files in (RAPL, AGX_ORIN, NANO, SERVER):
            root = os.path.join(self.root, str(id(files)))
            plant(root, {name: text if name.endswith(("name", "label")) else "?\n" for name, text in files.items()})
            self.assertIsNone(power.find_meter(root))

    def test_facts_name_what_can_be_read(self):
        for number, (files, source) in enumerate(
            ((ORIN, "ina3221"), (RAPL, "rapl"), (SERVER, "hwmon"), (PI_4, "unavailable"))
        ):
            self.assertEqual(probe.energy(plant(os.path.join(self.root, str(number)), files)), source)


class Refusals(OnBoard):
    def refused(self, **arguments) -> AgentError:
        with self.assertRaises(AgentError) as caught:
            energy.energy(lambda progress: None, root=self.root, **arguments)
        return caught.exception

    def test_a_board_without_a_meter_says_what_would_do(self):
        path = agent_models.write(os.path.join(self.root, "a.onnx"), b"")
        artifacts = [{"name": "a", "path": path}]
        error = self.refused(artifacts=artifacts)
        self.assertEqual(error.kind, "missing")
        self.assertIn("--meter", error.remedy)
        self.assertEqual(self.refused(artifacts=artifacts, rounds=0).kind, "usage")
        self.assertEqual(self.refused(artifacts=[{"name": "a", "path": path + "x"}]).kind, "missing")

    def test_counters_for_root_alone_are_told_from_none(self):
        """In a process of a user who is not root: that may read everything."""
        plant(self.root, RAPL)
        for counter in glob.glob(os.path.join(self.root, "sys/class/powercap/*/energy_uj")):
            os.chmod(counter, 0)
        agent_models.write(os.path.join(self.root, "a.onnx"), b"")
        os.chmod(self.root, 0o755)
        child = os.fork()
        if not child:
            told = False
            try:
                os.chdir(self.root)
                if os.geteuid() == 0:
                    os.setuid(65534)
                self.root = "."
                told = "chmod" in self.refused(artifacts=[{"name": "a", "path": "a.onnx"}]).remedy
                told = told and probe.energy(".") == "locked"
            finally:
                os._exit(0 if told else 1)
        self.assertEqual(os.waitpid(child, 0)[1], 0)


class Load:
    """Counters that a board drives by what this process computes: 5 W idle, and 20 W more for each busy core."""

    IDLE, BUSY = 5.0, 20.0

    def __init__(self, root: str) -> None:
        self.root, self.over = root, threading.Event()
        self.thread = threading.Thread(target=self.work, daemon=True)

    def work(self) -> None:
        path = "sys/class/powercap/intel-rapl:0/energy_uj"
        begun, busy = time.perf_counter(), time.process_time()
        while not self.over.wait(0.01):
            passed, computed = time.perf_counter() - begun, time.process_time() - busy
            with open(os.path.join(self.root, path + ".new"), "w") as file:
                file.write(f"{int(1e6 * (self.IDLE * passed + self.BUSY * computed))}\n")
            os.replace(os.path.join(self.root, path + ".new"), os.path.join(self.root, path))

    def __enter__(self) -> None:
        plant(self.root, {"sys/class/powercap/intel-rapl:0/name": "package-0\n",
                          "sys/class/powercap/intel-rapl:0/energy_uj": "0\n"})  # fmt: skip
        self.thread.start()

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()


@agent_models.needs_runtime
class Running(OnBoard):
    def run_beside(self, **more) -> dict:
        models = [("small", agent_models.conv(8)), ("large", agent_models.conv(64, 16))]
        artifacts = [
            {"name": name, "path": agent_models.write(os.path.join(self.root, f"{name}.onnx"), content)}
            for name, content in models
        ]
        self.said = []
        return energy.energy(self.said.append, artifacts=artifacts, root=self.root, rounds=2, seconds=0.3, **more)

    def test_phases_take_turns_with_idle_ones_between_and_readings_all_along(self):
        with Load(self.root):
            answer = self.run_beside()
        phases = answer["phases"]
        order = [phase["artifact"] for phase in phases]
        self.assertEqual(order, [None, "small", None, "large", None, "large", None, "small", None])
        self.assertEqual([phase["runs"] > 0 for phase in phases], [name is not None for name in order])
        bounds = [phase[side] for phase in phases for side in ("begin", "end")]
        self.assertEqual(bounds, sorted(bounds))
        times = [at for at, _ in answer["readings"]]
        self.assertEqual(times, sorted(times))
        self.assertTrue(times[0] <= phases[0]["end"] and times[-1] >= phases[-1]["end"])
        self.assertEqual(answer["meter"], {"source": "rapl", "kind": "joules", "counts": "package-0"})
        values = [value for _, value in answer["readings"]]
        self.assertEqual(values, sorted(values))
        self.assertEqual(answer["lost"], 0)

    def test_an_external_meter_is_told_when_each_phase_begins(self):
        answer = self.run_beside(external=True)
        self.assertEqual((answer["meter"], answer["readings"]), (None, []))
        stamps = [entry for entry in self.said if "at" in entry]
        self.assertEqual(len(stamps), len(answer["phases"]) + 1)
        for stamp, phase in zip(stamps, answer["phases"]):
            self.assertLessEqual(stamp["at"], phase["begin"])
        self.assertGreaterEqual(stamps[-1]["at"], answer["phases"][-1]["end"])


if __name__ == "__main__":
    unittest.main()
