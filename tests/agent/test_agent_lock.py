from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import unittest
from unittest import mock

from agent_pipes import reader, writer

from edgesdk_targets.agent import fresh, lock
from edgesdk_targets.agent.protocol import AgentError

HOLDER = """
import sys
from edgesdk_targets.agent import lock
with lock.device_lock(print, 60):
    print("held", flush=True)
    sys.stdin.read()
"""


class DeviceLock(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        patch = mock.patch.object(tempfile, "tempdir", self.folder)
        patch.start()
        self.addCleanup(patch.stop)
        self.reports = []

    def hold(self) -> subprocess.Popen:
        environment = dict(fresh.environment(), TMPDIR=self.folder)
        pipe = subprocess.PIPE
        holder = subprocess.Popen([sys.executable, "-c", HOLDER], stdin=pipe, stdout=pipe, env=environment)
        self.addCleanup(holder.wait)
        self.addCleanup(writer(holder).close)
        self.addCleanup(reader(holder).close)
        self.addCleanup(holder.kill)
        self.assertEqual(reader(holder).readline(), b"held\n")
        return holder

    def test_it_is_busy_while_another_process_holds_it(self):
        self.hold()
        with self.assertRaises(AgentError) as caught, lock.device_lock(self.reports.append, 0.3):
            self.fail("both hold it")
        self.assertEqual(caught.exception.kind, "busy")
        self.assertEqual(self.reports, [{"done": 0.0, "of": 0.3, "state": "waiting"}])

    def test_it_is_free_once_its_holder_is_killed(self):
        holder = self.hold()
        holder.kill()
        with lock.device_lock(self.reports.append, 60):
            pass

    def test_it_is_free_after_use_and_after_a_failure(self):
        with self.assertRaises(ZeroDivisionError), lock.device_lock(self.reports.append, 0):
            print(1 / 0)
        with lock.device_lock(self.reports.append, 0):
            pass
        self.assertEqual(self.reports, [])

    def test_what_was_forked_meanwhile_does_not_keep_it(self):
        ended, end = os.pipe()
        with lock.device_lock(self.reports.append, 0):
            child = os.fork()
            if not child:  # as a library's own process that stalls
                os.close(end)
                os.read(ended, 1)
                os._exit(0)
        self.addCleanup(os.waitpid, child, 0)
        self.addCleanup(os.close, end)
        with lock.device_lock(self.reports.append, 0):
            pass

    def test_other_users_can_open_it(self):
        before = os.umask(0o077)
        self.addCleanup(os.umask, before)
        with lock.device_lock(self.reports.append, 0):
            mode = os.stat(os.path.join(self.folder, lock.NAME)).st_mode & 0o777
        self.assertEqual(mode, 0o644)


if __name__ == "__main__":
    unittest.main()
