from __future__ import annotations

import sys
import unittest
from unittest import mock

from edgesdk_targets.agent import probe, runners, wheels

PREFIX = "python3 -m venv ~/.edgesdk/venv && ~/.edgesdk/venv/bin/pip install "


class Advice(unittest.TestCase):
    def test_commands_are_of_the_interpreter_that_asks(self):
        said = wheels.advice("onnxruntime", (3, 11), "2.36", "aarch64")
        with mock.patch.object(sys, "executable", "/opt/my python/bin/python3.11"):
            with mock.patch.object(sys, "prefix", "/opt/my python"):
                own = "'/opt/my python/bin/python3.11' -m pip install numpy onnxruntime==1.31.1"
                self.assertEqual(wheels.own(said), own)
            with mock.patch.object(sys, "prefix", sys.base_prefix):
                self.assertEqual(wheels.own(said), said.replace("python3", "'/opt/my python/bin/python3.11'", 1))
        self.assertEqual(wheels.own("use another Python"), "use another Python")

    def test_boards_as_they_come(self):
        for runtime, python, glibc, machine, command in (
            ("onnxruntime", (3, 8), "2.31", "aarch64", "numpy onnxruntime==1.19.2"),  # JetPack 5
            ("onnxruntime", (3, 10), "2.35", "aarch64", "numpy onnxruntime==1.23.2"),  # JetPack 6
            ("onnxruntime", (3, 11), "2.36", "aarch64", "numpy onnxruntime==1.31.1"),  # Raspberry Pi OS bookworm
            ("onnxruntime", (3, 13), "2.41", "aarch64", "numpy onnxruntime==1.31.1"),  # and trixie
            ("onnxruntime", (3, 11), "2.27", "x86_64", "numpy onnxruntime==1.28.0"),
            ("onnxruntime", (3, 8), "2.26", "x86_64", "'numpy<2' onnxruntime==1.16.3"),
            ("ncnn", (3, 8), "2.31", "aarch64", "numpy ncnn==1.0.20260526"),
            ("ncnn", (3, 11), "2.17", "x86_64", "numpy ncnn==1.0.20250503"),
            ("executorch", (3, 11), "2.36", "aarch64", "numpy torch==2.13.0 executorch==1.5.1"),
            ("openvino", (3, 8), "2.31", "aarch64", "numpy openvino==2024.4.0"),
            ("openvino", (3, 11), "2.31", "aarch64", "numpy openvino==2025.2.0"),
            ("openvino", (3, 11), "2.36", "aarch64", "numpy openvino==2026.4.1"),
            ("litert", (3, 11), "2.36", "aarch64", "numpy ai-edge-litert==2.3.0"),
            ("tflite", (3, 11), "2.36", "armv7l", "'numpy<2' tflite-runtime==2.14.0"),
            ("tflite", (3, 9), "2.31", "armv7l", "'numpy<2' tflite-runtime==2.13.0"),  # Raspberry Pi OS bullseye
            ("onnxruntime", (3, 14), "2.42", "aarch64", "numpy onnxruntime"),  # newer than what is known here
        ):
            self.assertEqual(wheels.advice(runtime, python, glibc, machine), PREFIX + command)

    def test_where_there_is_no_wheel_something_else_is_named(self):
        said = wheels.advice("litert", (3, 8), "2.31", "aarch64")
        self.assertIn("ai-edge-litert has no wheel for Python 3.8 and glibc 2.31 on aarch64", said)
        self.assertTrue(said.endswith(PREFIX + "'numpy<2' tflite-runtime==2.13.0"))
        said = wheels.advice("onnxruntime", (3, 11), "2.36", "armv7l")
        self.assertEqual(
            said,
            "onnxruntime has no wheel for Python 3.11 and glibc 2.36 on armv7l: "
            "deploy with --runtime litert, for tflite-runtime has one",
        )
        for glibc, machine in (("", "aarch64"), ("2.36", "riscv64"), ("1.2.4", "x86_64"), ("new", "x86_64")):
            said = wheels.advice("onnxruntime", (3, 11), glibc, machine)
            self.assertIn("has no wheel", said)
            self.assertIn("use another Python", said)

    def test_every_runner_has_its_wheels(self):
        for name in [name for name, runner in runners.RUNNERS.items() if runner.version is None]:
            self.assertIn("3.11", wheels.advice(name, (3, 11), "2.4", "x86_64"))
            self.assertEqual(wheels.PACKAGES.get(name, name), runners.RUNNERS[name][1][0])
        for machines in wheels.WHEELS.values():
            for pythons in machines.values():
                for by_python in pythons.values():
                    self.assertEqual(sorted(by_python, key=lambda item: -item[0]), list(by_python))

    def test_the_probe_names_what_is_not_installed(self):
        facts = probe.probe(lambda progress: None)
        self.assertEqual(set(facts["wheels"]) | set(facts["runners"]), set(runners.RUNNERS))
        self.assertFalse(set(facts["wheels"]) & set(facts["runners"]))
        for name, said in facts["wheels"].items():
            if runners.RUNNERS[name].advice is not None:  # no wheel brings it
                self.assertEqual(said, runners.how_to_get(name))
                continue
            self.assertEqual(said, wheels.here(name))
            self.assertTrue("pip install " in said or f"Python 3.{sys.version_info[1]}" in said)


if __name__ == "__main__":
    unittest.main()
