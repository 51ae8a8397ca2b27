from __future__ import annotations

import json
import os
import platform
import tempfile
import unittest

from agent_boards import EMPTY, ORIN, PI_4, PI_5, X86, XAVIER, plant

from edgesdk_targets.agent import probe


class Boards(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = folder.name

    def probe(self, files: dict) -> dict:
        return probe.probe(lambda progress: None, root=plant(self.root, files))

    def test_raspberry_pi_4(self):
        facts = self.probe(PI_4)
        self.assertEqual(facts["cpu"], "Cortex-A72")
        self.assertEqual((facts["cores"], facts["features"]), (4, ["asimd"]))
        self.assertEqual(facts["board"], "Raspberry Pi 4 Model B Rev 1.5")
        self.assertEqual(facts["memory_bytes"], 3884376 * 1024)
        self.assertEqual(facts["kernel"], "6.1.0-rpi7-rpi-v8")
        self.assertEqual(facts["os"], "Debian GNU/Linux 12 (bookworm)")
        self.assertEqual((facts["l4t"], facts["energy"]), (None, "unavailable"))
        now = facts["conditions"]
        self.assertEqual(now["governor"], "ondemand")
        expected = [{"core": core, "mhz": 600.0, "maximum_mhz": 1800.0} for core in range(4)]
        self.assertEqual(now["frequencies"], expected)
        zone = {"zone": "thermal_zone0", "type": "cpu-thermal", "celsius": 48.199}
        self.assertEqual(now["temperatures"], [zone])
        self.assertEqual(now["throttle"], {"source": "hwmon", "now": ["undervoltage"], "since_boot": []})
        self.assertEqual(now["load"], [0.1, 0.2, 0.3])
        self.assertEqual((facts["cache_kb"], facts["emulated"], now["power_mode"]), (1024, False, None))

    def test_raspberry_pi_5(self):
        facts = self.probe(PI_5)
        self.assertEqual((facts["cpu"], facts["cores"], facts["cache_kb"]), ("Cortex-A76", 4, 512))
        self.assertEqual(facts["features"], ["asimd", "asimddp", "fp16"])
        self.assertEqual(facts["board"], "Raspberry Pi 5 Model B Rev 1.0")
        self.assertEqual((facts["memory_bytes"], facts["os"]), (8257376 * 1024, "Debian GNU/Linux 13 (trixie)"))
        now = facts["conditions"]
        self.assertEqual(now["frequencies"][3], {"core": 3, "mhz": 1500.0, "maximum_mhz": 2400.0})
        self.assertEqual(now["throttle"], {"source": "hwmon", "now": [], "since_boot": []})
        self.assertEqual(now["temperatures"][0]["celsius"], 57.85)

    def test_jetson_xavier(self):
        facts = self.probe(XAVIER)
        self.assertEqual((facts["cpu"], facts["cores"], facts["cache_kb"]), ("Carmel", 8, 2048))
        self.assertEqual(facts["features"], ["asimd", "fp16"])
        self.assertEqual((facts["board"], facts["l4t"]["release"]), ("Jetson-AGX", "35.4.1"))
        self.assertEqual((facts["energy"], facts["os"]), ("ina3221", "Ubuntu 20.04.6 LTS"))
        self.assertEqual((facts["conditions"]["power_mode"], facts["conditions"]["governor"]), ("2", "schedutil"))
        self.assertEqual(facts["conditions"]["graphics"], {"mhz": 114.75, "maximum_mhz": None})

    def test_processors_of_nobody_known_and_of_32_bits(self):
        for part, implementer, cpu in (
            ("0xc07", "0x41", "Cortex-A7"),
            ("0xfff", "0x41", "Arm part 0xfff"),
            ("0x003", "0x4e", "Denver 2"),
            ("0x001", "0x61", "some processor"),
        ):
            text = f"model name\t: some processor\nCPU implementer\t: {implementer}\nCPU part\t: {part}\n"
            self.assertEqual(self.probe({"proc/cpuinfo": text})["cpu"], cpu)

    def test_the_cache_is_told_in_kilobytes(self):
        path = "sys/devices/system/cpu/cpu0/cache/index2/size"
        for text, size in (("256K\n", 256), ("1M\n", 1024), ("many\n", None), ("", None)):
            self.assertEqual(self.probe({path: text})["cache_kb"], size)

    def test_an_emulator_is_told_by_its_name(self):
        for name, is_one in (("qemu-aarch64-st", True), ("python3", False), ("qemu", False)):
            self.assertIs(self.probe({"proc/self/status": f"Name:\t{name}\nUmask:\t0022\n"})["emulated"], is_one)
        link = os.path.join(self.root, "proc", "thread-self", "exe")
        os.makedirs(os.path.dirname(link))
        for program, is_one in (("/usr/bin/python3.11", False), ("/usr/bin/qemu-aarch64-static", True)):
            os.symlink(program, link)
            self.assertIs(self.probe({})["emulated"], is_one)
            os.remove(link)
        os.environ["EDGESDK_EMULATED"] = "1"
        self.addCleanup(os.environ.pop, "EDGESDK_EMULATED")
        self.assertIs(self.probe({})["emulated"], True)

    def test_the_board_is_in_cpuinfo_where_there_is_no_device_tree(self):
        files = {name: content for name, content in PI_4.items() if "device-tree" not in name}
        self.assertEqual(self.probe(files)["board"], "Raspberry Pi 4 Model B Rev 1.5")

    def test_jetson_orin(self):
        facts = self.probe(ORIN)
        self.assertEqual(facts["cpu"], "Cortex-A78AE")
        self.assertEqual((facts["cores"], facts["features"]), (3, ["asimd", "asimddp", "fp16"]))
        self.assertEqual(facts["board"], "NVIDIA Orin Nano Developer Kit")
        self.assertEqual(facts["l4t"]["release"], "35.4.1")
        self.assertTrue(facts["l4t"]["text"].endswith("EABI: aarch64"))
        self.assertEqual(facts["energy"], "ina3221")
        self.assertEqual(facts["conditions"]["governor"], "performance, schedutil")
        celsius = [zone["celsius"] for zone in facts["conditions"]["temperatures"]]
        self.assertEqual(celsius, [50.5, None])
        self.assertEqual(facts["conditions"]["throttle"], {"source": "soctherm_oc", "events": 3})
        self.assertEqual(facts["conditions"]["graphics"], {"mhz": 306.0, "maximum_mhz": 1020.0})

    def test_x86(self):
        facts = self.probe(X86)
        self.assertEqual((facts["cpu"], facts["cores"]), ("Some CPU @ 2.60GHz", 2))
        self.assertEqual(facts["features"], ["avx2", "avx512f", "avx512_vnni", "amx_int8", "avx512_bf16"])
        self.assertEqual([core["mhz"] for core in facts["conditions"]["frequencies"]], [2599.998, 1200.5])
        self.assertEqual(facts["conditions"]["throttle"], {"source": "thermal_throttle", "events": 7})
        self.assertEqual((facts["board"], facts["energy"]), (None, "unavailable"))

    def test_a_board_that_says_nothing_has_nulls(self):
        facts = self.probe(EMPTY)
        for name in ("cpu", "cores", "features", "memory_bytes", "cache_kb", "kernel", "os", "board", "l4t"):
            self.assertIsNone(facts[name], name)
        for name in ("governor", "power_mode", "frequencies", "graphics", "temperatures", "throttle", "load"):
            self.assertIsNone(facts["conditions"][name], name)
        self.assertEqual(facts["energy"], "unavailable")

    def test_files_of_nonsense_are_nulls_too(self):
        garbled = {name: "\x01?\n" for files in (PI_4, PI_5, XAVIER, ORIN, X86) for name in files}
        facts = self.probe(garbled)
        for name in ("cpu", "cores", "features", "memory_bytes", "cache_kb", "os"):
            self.assertIsNone(facts[name], name)
        self.assertEqual(facts["l4t"]["release"], None)
        self.assertEqual({zone["celsius"] for zone in facts["conditions"]["temperatures"]}, {None})

    def test_this_machine(self):
        facts = probe.probe(lambda progress: None)
        self.assertEqual(facts["python"], platform.python_version())
        self.assertEqual(json.loads(json.dumps(facts)), facts)


class Throttling(unittest.TestCase):
    def test_bits_are_decoded(self):
        decoded = probe.decode_throttled("throttled=0x50005\n")
        both = ["undervoltage", "throttled"]
        self.assertEqual(decoded, {"now": both, "since_boot": both})
        self.assertEqual(probe.decode_throttled("throttled=0x0"), {"now": [], "since_boot": []})
        capped = {"now": ["soft temperature limit"], "since_boot": ["frequency capped"]}
        self.assertEqual(probe.decode_throttled("throttled=0x20008"), capped)
        self.assertIsNone(probe.decode_throttled("VCHI initialization failed"))
        self.assertIsNone(probe.decode_throttled(None))

    def verdict(self, before: object, after: object) -> str | None:
        return probe.throttled({"throttle": before}, {"throttle": after})

    def test_a_calm_board_is_valid_whatever_happened_before(self):
        old = {"source": "vcgencmd", "now": [], "since_boot": ["throttled"]}
        self.assertIsNone(self.verdict(old, old))
        self.assertIsNone(self.verdict(None, None))
        counter = {"source": "thermal_throttle", "events": 7}
        self.assertIsNone(self.verdict(counter, counter))

    def test_what_throttled_is_named_with_its_time(self):
        calm = {"source": "vcgencmd", "now": [], "since_boot": []}
        low = {"source": "vcgencmd", "now": ["undervoltage"], "since_boot": ["undervoltage"]}
        past = {"source": "vcgencmd", "now": [], "since_boot": ["undervoltage"]}
        self.assertEqual(self.verdict(low, past), "undervoltage before the run")
        self.assertEqual(self.verdict(calm, low), "undervoltage after the run")
        self.assertEqual(self.verdict(calm, past), "undervoltage during the run")
        few, more = ({"source": "thermal_throttle", "events": count} for count in (7, 8))
        self.assertEqual(self.verdict(few, more), "the processor throttled during the run")

    def test_a_power_mode_that_changed_is_named(self):
        def during(before, after):
            return probe.throttled(*({"throttle": None, "power_mode": mode} for mode in (before, after)))

        self.assertEqual(during("15W", "MAXN"), "the power mode changed from 15W to MAXN during the run")
        for same in (("15W", "15W"), (None, None), (None, "2")):  # nvpmodel may fail to answer once
            self.assertIsNone(during(*same))


if __name__ == "__main__":
    unittest.main()
