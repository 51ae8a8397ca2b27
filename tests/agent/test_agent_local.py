from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import time
import unittest

import agent_models
from agent_pipes import reader

if sys.version_info < (3, 10) or importlib.util.find_spec("edgesdk") is None:
    raise unittest.SkipTest("the host's side takes Python 3.10")

from edgesdk.core.errors import DeviceError
from edgesdk.devices.agent import AgentProcess
from edgesdk.devices.local import LocalDevice
from edgesdk_targets.agent import fresh

# An agent that starts a process of its own, tells its number, and then takes its time.
PARENT = """
import json, subprocess, sys
sys.stdin.readline()
child = subprocess.Popen(["sleep", "600"])
print(json.dumps({"protocol": 1, "id": 1, "progress": {"child": child.pid}}), flush=True)
child.wait()
"""
HOST = """
import sys
from edgesdk.devices.local import LocalDevice

def tell(progress):
    if progress["state"] == "timing":
        print(device._child.process.pid, flush=True)

with LocalDevice() as device:
    artifacts = [{"name": "a", "path": sys.argv[1]}]
    device.call("benchmark", artifacts=artifacts, minimum_seconds=600, warmup_seconds=0, on_progress=tell)
"""


def is_running(number: int) -> bool:
    """Whether the process ``number`` is there and no zombie."""
    try:
        with open(f"/proc/{number}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def shell(script: str) -> AgentProcess:
    return AgentProcess(("sh", "-c", script), None, "the shell")


class Local(unittest.TestCase):
    def test_it_calls_the_agent_and_uses_it_again(self):
        with LocalDevice() as device:
            self.assertEqual(device.call("probe")["python"], sys.version.split()[0])
            first = device._child
            assert first is not None
            self.assertIn("architecture", device.call("probe"))
            self.assertIs(device._child, first)
        self.assertFalse(is_running(first.process.pid))

    def test_it_starts_again_after_it_was_closed(self):
        device = LocalDevice()
        self.addCleanup(device.close)
        device.call("probe")
        device.close()
        device.close()
        self.assertIn("cpu", device.call("probe"))

    def test_an_error_keeps_its_fact_and_remedy_and_the_agent(self):
        with LocalDevice() as device:
            with self.assertRaises(DeviceError) as caught:
                device.call("load", path="/no/such/model.onnx")
            self.assertEqual(caught.exception.fact, "/no/such/model.onnx is not on this device")
            self.assertEqual(caught.exception.remedy, "send the file first")
            self.assertIn("cpu", device.call("probe"))

    def test_an_agent_that_is_killed_says_by_what_and_who_is_to_blame(self):
        blamed = {
            signal.SIGKILL: "more memory",
            signal.SIGSEGV: "the runtime there crashed",
            signal.SIGABRT: "the runtime there crashed",
        }
        with LocalDevice() as device:
            for number, remedy in blamed.items():
                device.call("probe")
                assert device._child is not None
                os.kill(device._child.process.pid, number)
                with self.assertRaisesRegex(DeviceError, f"this machine was killed by {number.name}.*{remedy}"):
                    device.call("probe")
            self.assertIn("cpu", device.call("probe"))

    @agent_models.needs_runtime
    def test_progress_is_passed_on(self):
        with tempfile.TemporaryDirectory() as folder, LocalDevice() as device:
            path = agent_models.write(os.path.join(folder, "a.onnx"), agent_models.conv())
            reports = []
            result = device.call("operators", models=[{"key": "a", "path": path}], on_progress=reports.append)
        self.assertEqual(reports[-1]["results"], result["results"])

    @agent_models.needs_runtime
    def test_interrupting_the_host_ends_the_agent(self):
        environment = fresh.environment()
        environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        with tempfile.TemporaryDirectory() as folder:
            model = agent_models.write(os.path.join(folder, "a.onnx"), agent_models.conv())
            environment["TMPDIR"] = folder
            command, pipe = [sys.executable, "-c", HOST, model], subprocess.PIPE
            with subprocess.Popen(command, stdout=pipe, stderr=pipe, env=environment) as host:
                agent = int(reader(host).readline())
                self.assertTrue(is_running(agent))
                host.send_signal(signal.SIGINT)
                errors = host.communicate(timeout=60)[1].decode()
        self.assertIn("KeyboardInterrupt", errors)
        self.assertFalse(is_running(agent))


class Trouble(unittest.TestCase):
    def test_an_agent_that_dies_says_how_and_what_it_printed_last(self):
        message = r"ended with exit code 3 \(no module of that name\)"
        device = shell("echo first >&2; echo no module of that name >&2; exit 3")
        with device, self.assertRaisesRegex(DeviceError, message):
            device.call("probe")

    def test_nonsense_is_refused_and_ends_the_agent(self):
        for said in ("Last login: today", '{\\"protocol\\": 1, \\"id\\": 99, \\"result\\": {}}'):
            with shell(f'read line; echo "{said}"; sleep 600') as device:
                with self.assertRaisesRegex(DeviceError, "the agent on the shell sent"):
                    device.call("probe")
                self.assertIsNone(device._child)

    def test_a_program_that_is_not_there(self):
        with self.assertRaisesRegex(DeviceError, "cannot be started"):
            AgentProcess(("/no/such/program",), None, "nowhere").call("probe")

    def test_a_timeout_ends_the_agent_and_what_it_started(self):
        children = []
        device = AgentProcess((sys.executable, "-c", PARENT), None, "the parent")
        with device, self.assertRaisesRegex(DeviceError, "took over 1 s for probe"):
            device.call("probe", timeout=1, on_progress=children.append)
        # The agent has been waited for; what it started belongs to nobody here, so that its end may take a moment.
        number = children[0]["child"]
        for _ in range(1000):
            if not is_running(number):
                return
            time.sleep(0.01)
        self.fail("the agent's own child lives on")

    def test_an_interrupt_while_waiting_ends_the_agent(self):
        def interrupt(progress):
            assert device._child is not None
            numbers.append(device._child.process.pid)
            raise KeyboardInterrupt

        numbers = []
        with AgentProcess((sys.executable, "-c", PARENT), None, "the parent") as device:
            with self.assertRaises(KeyboardInterrupt):
                device.call("probe", on_progress=interrupt)
            self.assertFalse(is_running(numbers[0]))


if __name__ == "__main__":
    unittest.main()
