"""An installation that is killed, or finds the disk full, at each of its operations on files, one after the other."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest
from itertools import count

import agent_bundles
import agent_models

from edgesdk_targets.agent import fresh, install

PROGRAM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "agent_faults.py")
MANY = 1000  # no call has as many operations


@agent_models.needs_runtime
class EveryOperation(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = os.path.realpath(folder.name)
        self.root, self.before = os.path.join(self.folder, "root"), os.path.join(self.folder, "before")
        os.makedirs(self.before)

    def bundle(self, minute: int) -> str:
        folder = os.path.join(self.folder, str(minute))
        if not os.path.isdir(folder):
            agent_bundles.write(folder, agent_bundles.real(), created=f"2026-11-21T16:{minute:02}:00Z")
        return folder

    def install(self, minute: int, root: str, **settings) -> str:
        done = install.install(lambda progress: None, folder=self.bundle(minute), root=root, **settings)
        return done["version"]

    def provoke(self, fault: str, number: int, verb: str, arguments: dict) -> str:
        """Call the verb with the fault at operation ``number``, from what was there before. What it said."""
        shutil.rmtree(self.root)
        shutil.copytree(self.before, self.root, symlinks=True)
        command = [sys.executable, PROGRAM, fault, str(number), self.root, verb, json.dumps(arguments)]
        pipe = subprocess.PIPE
        done = subprocess.run(command, stdout=pipe, stderr=pipe, env=fresh.environment(), timeout=120)
        said = done.stdout.decode().strip()
        self.assertEqual(done.returncode, -signal.SIGKILL if not said else 0, done.stderr.decode())
        return said

    def provoke_all(self, fault: str, verb: str, arguments: dict, allowed: tuple, after: int) -> None:
        """At each operation: what runs is whole and one of ``allowed``, and then the bundle ``after`` is installed.

        That is tried once from each state in which the fault leaves what is below the root.
        """
        os.makedirs(self.root)
        seen: list = []
        for number in count(1):
            with self.subTest(fault=fault, number=number):
                said = self.provoke(fault, number, verb, arguments)
                self.assertIn(agent_bundles.current(self.root), allowed)
                if said == "storage":
                    self.assertEqual(self.left(), [])
                state = agent_bundles.state(self.root)
                if state not in seen:
                    seen.append(state)
                    version = self.install(after, self.root, keep=2)
                    self.assertEqual(agent_bundles.tidy(self.root)[-1], version)
                    self.assertEqual(agent_bundles.current(self.root), version)
            if said.startswith("through"):
                self.assertEqual(said, "through done")
                self.assertGreater(len(seen), 1)
                return
            self.assertLess(number, MANY)

    def left(self) -> list:
        """What an interrupted installation has left below the root."""
        names = [name for _, folders, files in os.walk(self.root) for name in [*folders, *files]]
        return [name for name in names if name.startswith(".") and name != ".lock"]

    def test_the_first_installation(self):
        arguments = {"folder": self.bundle(1), "root": self.root}
        for fault in ("kill", "full"):
            version = install._Bundle(self.bundle(1)).version
            self.provoke_all(fault, "install", arguments, (None, version), after=1)
            shutil.rmtree(self.root)

    def test_one_that_prunes(self):
        self.install(1, self.before)
        old = self.install(2, self.before)
        arguments = {"folder": self.bundle(3), "root": self.root, "keep": 2}
        for fault in ("kill", "full"):
            self.provoke_all(fault, "install", arguments, (old, install._Bundle(self.bundle(3)).version), after=3)
            shutil.rmtree(self.root)

    def test_a_rollback(self):
        first, second = self.install(1, self.before), self.install(2, self.before)
        for fault in ("kill", "full"):
            self.provoke_all(fault, "rollback", {"root": self.root}, (first, second), after=3)
            shutil.rmtree(self.root)

    def test_mending_what_runs(self):
        version = self.install(1, self.before)
        for name in ("model.onnx", "run.py"):
            agent_models.write(os.path.join(self.before, "versions", version, name), b"damaged")
        arguments = {"folder": self.bundle(1), "root": self.root}
        os.makedirs(self.root)
        for fault in ("kill", "full"):
            seen: list = []
            for number in range(1, MANY):
                with self.subTest(fault=fault, number=number):
                    said = self.provoke(fault, number, "install", arguments)
                    self.assertEqual(os.readlink(self.root + "/current"), "versions/" + version)
                    if said == "storage":
                        self.assertEqual(self.left(), [])
                    state = agent_bundles.state(self.root)
                    if state not in seen:
                        seen.append(state)
                        self.assertEqual(self.install(1, self.root), version)
                        self.assertEqual(agent_bundles.tidy(self.root), [version])
                if said.startswith("through"):
                    break
            self.assertGreater(len(seen), 2)

    def test_a_file_that_cannot_be_written_to_its_end(self):
        """The kernel cuts the write itself, as on a full disk, in the middle of each file in turn."""
        version = self.install(1, self.before)
        bundle = self.bundle(2)
        sizes = sorted(os.path.getsize(os.path.join(bundle, name)) for name in os.listdir(bundle))
        os.makedirs(self.root)
        for limit in sorted({size - 1 for size in sizes} | {0}):
            with self.subTest(limit=limit):
                said = self.provoke("short", limit, "install", {"folder": bundle, "root": self.root})
                self.assertEqual(said.split()[-1], "storage")
                self.assertEqual(agent_bundles.tidy(self.root), [version])


if __name__ == "__main__":
    unittest.main()
