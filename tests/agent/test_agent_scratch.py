from __future__ import annotations

import base64
import errno
import fcntl
import hashlib
import os
import resource
import subprocess
import sys
import tempfile
import time
import unittest

from agent_pipes import reader, say, writer
from test_agent_process import converse

from edgesdk_targets.agent import fresh, protocol, scratch

AGENT = [sys.executable, "-m", "edgesdk_targets.agent"]
DIE = """
import os
from edgesdk_targets.agent import scratch
print(scratch.folder(), flush=True)
os.kill(os.getpid(), 9)
"""


def piece(number: int, name: str, content: bytes, **more) -> bytes:
    arguments = {"name": name, "data": base64.b64encode(content).decode(), **more}
    return protocol.request(number, "put", arguments)


class Scratch(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        self.environment = dict(fresh.environment(), TMPDIR=self.folder)

    def put(self, *requests: bytes, **settings) -> list:
        answers, code, errors = converse(AGENT, *requests, env=self.environment, **settings)
        self.assertEqual((code, errors), (0, ""))
        return [answer.get("result") or answer["error"] for answer in answers]

    def left(self) -> list:
        return [name for name in os.listdir(self.folder) if name.startswith(scratch.PREFIX)]

    def test_pieces_make_a_file_that_is_there_as_long_as_the_agent(self):
        with subprocess.Popen(AGENT, stdin=-1, stdout=-1, env=self.environment) as agent:
            last = {"offset": 4, "sha256": hashlib.sha256(b"one two").hexdigest()}
            pieces = [("a/model.onnx", b"one ", {}), ("a/model.onnx", b"two", last), ("a/empty", b"", {})]
            for number, (name, content, more) in enumerate(pieces):
                say(agent, piece(number, name, content, **more))
                result = protocol.answer(reader(agent).readline(), number)["result"]
                if number == 1:
                    path = result["path"]
                    self.assertEqual(result["bytes"], 7)
            with open(path, "rb") as file:
                self.assertEqual(file.read(), b"one two")
            folder = os.path.dirname(os.path.dirname(path))
            self.assertEqual(os.stat(folder).st_mode & 0o777, 0o700)
            self.assertEqual(os.path.dirname(folder), self.folder)
            writer(agent).close()
            self.assertEqual((agent.wait(60), self.left()), (0, []))

    def test_offset_0_begins_a_file_anew(self):
        again = [piece(1, "a", b"old content"), piece(2, "a", b"new"), piece(3, "a", b"er", offset=3)]
        self.assertEqual([result["bytes"] for result in self.put(*again)], [11, 3, 5])

    def test_names_that_lead_elsewhere_or_are_none_are_refused(self):
        bad = [
            "",
            "/etc/passwd",
            "..",
            "../a",
            "a/../b",
            "a//b",
            "./a",
            "a/",
            ".hidden",
            "a/.b",
            "a\\b",
            "a\0b",
            "a\nb",
        ]
        for result in self.put(*[piece(1, name, b"x") for name in [*bad, "a\nb", "a/b/c/d/e"]]):
            self.assertEqual(result["kind"], "usage")
            self.assertIn("is no name for a file that is sent", result["fact"])
        request = protocol.request(1, "put", {"name": 7, "data": ""})
        self.assertEqual(self.put(request)[0]["kind"], "usage")
        self.assertEqual(os.listdir(self.folder), [])

    def test_what_was_sent_can_be_dropped(self):
        name, more = "a/b", {"offset": 1}
        steps = [piece(1, name, b"x"), protocol.request(2, "drop", {"name": "a"}), piece(3, name, b"y", **more)]
        steps += [protocol.request(4, "drop", {"name": "a/b/c"}), protocol.request(5, "drop", {"name": "a"})]
        answers = self.put(*steps, piece(6, "c", b"x"), protocol.request(7, "drop", {"name": "c"}))
        self.assertEqual([answers[index] for index in (1, 3, 4, 6)], [{"removed": there} for there in (1, 1, 0, 1)])
        self.assertEqual(answers[2]["fact"], "b has 0 bytes, and the piece begins at 1")
        for name in ("..", "", "/etc", ".lock"):
            self.assertEqual(self.put(protocol.request(1, "drop", {"name": name}))[0]["kind"], "usage")

    def test_a_name_cannot_be_both_a_file_and_a_folder(self):
        answers = self.put(piece(1, "a", b"x"), piece(2, "a/b", b"x"), piece(3, "c/d", b"x"), piece(4, "c", b"x"))
        self.assertEqual([result.get("kind") for result in answers], [None, "usage", None, "usage"])

    def test_a_piece_at_another_place_than_the_end_is_refused_and_what_is_there_stays(self):
        steps = [piece(1, "a", b"1234"), piece(2, "a", b"x", offset=2), piece(3, "a", b"x", offset=9)]
        steps += [piece(4, "a", b"5", offset=4), piece(5, "b", b"x", offset=1)]
        answers = self.put(*steps, piece(6, "a", b"x", offset=-1), piece(7, "a", b"x", offset="5"))
        self.assertEqual(
            [item.get("kind") for item in answers], [None, "usage", "usage", None, "usage", "usage", "usage"]
        )
        self.assertEqual(answers[1]["fact"], "a has 4 bytes, and the piece begins at 2")
        self.assertEqual(answers[3]["bytes"], 5)

    def test_what_is_not_base64_is_refused(self):
        for data in ("?", "a", 7, None, "\u00e9"):
            answers = self.put(protocol.request(1, "put", {"name": "a", "data": data}))
            self.assertEqual(answers[0]["kind"], "usage")

    def test_a_file_that_arrived_damaged_is_removed(self):
        bad, more = piece(1, "a", b"x", sha256="0" * 64), piece(2, "a", b"y", offset=1)
        answers = self.put(bad, more)
        self.assertEqual([result["kind"] for result in answers], ["failed", "usage"])
        self.assertEqual(answers[1]["fact"], "a has 0 bytes, and the piece begins at 1")

    def test_a_full_disk_is_told_and_the_part_is_removed(self):
        def limit() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

        steps = [piece(1, "a", bytes(900)), piece(2, "a", bytes(900), offset=900), piece(3, "a", b"x", offset=900)]
        answers = self.put(*steps, piece(4, "a", b"x"), preexec_fn=limit)
        self.assertEqual([result.get("kind") for result in answers], [None, "storage", "usage", None])
        self.assertIn(os.strerror(errno.EFBIG), answers[1]["fact"])

    def test_no_folder_can_be_made(self):
        code = "import tempfile; tempfile.tempdir = '/proc/no'; from edgesdk_targets.agent import __main__ as a; "
        answers, _, _ = converse([sys.executable, "-c", code + "a.main()"], piece(1, "a", b"x"))
        self.assertEqual(answers[0]["error"]["kind"], "storage")

    def test_the_folder_of_a_killed_agent_goes_and_that_of_a_living_one_stays(self):
        done = subprocess.run([sys.executable, "-c", DIE], stdout=subprocess.PIPE, env=self.environment)
        dead = done.stdout.decode().strip()
        self.assertTrue(os.path.isdir(dead))
        unheld = os.path.join(self.folder, scratch.PREFIX + "unheld")  # killed before it could hold its lock
        os.mkdir(unheld)
        old = time.time() - 2 * scratch.YOUNG_SECONDS
        os.utime(unheld, (old, old))
        young = os.path.join(self.folder, scratch.PREFIX + "young")
        os.mkdir(young)
        living = os.path.join(self.folder, scratch.PREFIX + "living")
        os.mkdir(living)
        with open(os.path.join(living, scratch.LOCK), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            link = os.path.join(self.folder, scratch.PREFIX + "link")
            os.symlink(living, link)
            self.put(piece(1, "a", b"x"))
            self.assertEqual(sorted(self.left()), sorted(map(os.path.basename, (living, link, young))))
        os.rmdir(young)
        self.put(protocol.request(1, "probe", {}))  # any agent clears up
        self.assertEqual(self.left(), [os.path.basename(link)])

    def test_agents_that_begin_together_do_not_sweep_each_other(self):
        agents = [subprocess.Popen(AGENT, stdin=-1, stdout=-1, env=self.environment) for _ in range(6)]
        paths = []
        for agent in agents:
            say(agent, piece(1, "a", b"x"))
        for agent in agents:
            paths.append(protocol.answer(reader(agent).readline(), 1)["result"]["path"])
        self.assertEqual([os.path.getsize(path) for path in paths], [1] * 6)
        for agent in agents:
            agent.communicate()
        self.assertEqual(self.left(), [])

    def test_a_fresh_process_does_not_keep_the_lock(self):
        start = "import subprocess; subprocess.Popen(['sleep', '60'], stdout=subprocess.DEVNULL)\n"
        code = DIE.replace("os.kill", start + "os.kill")
        done = subprocess.Popen([sys.executable, "-c", code], stdout=-1, env=self.environment, start_new_session=True)
        self.addCleanup(os.killpg, done.pid, 9)
        path = done.communicate()[0].decode().strip()
        self.assertTrue(os.path.isdir(path))
        self.put(piece(1, "a", b"x"))
        self.assertFalse(os.path.exists(path))


if __name__ == "__main__":
    unittest.main()
