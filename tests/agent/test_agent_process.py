from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import tempfile
import time
import unittest
import zipapp

import agent_models
from agent_pipes import reader, say

from edgesdk_targets.agent import fresh, protocol

AGENT = os.path.join(fresh.package_root(), "edgesdk_targets", "agent")
BUSY = "import os, time\nfrom edgesdk_targets.agent import fresh, scratch\n"
LOUD = """
import os
from edgesdk_targets.agent import __main__ as agent

def shout(report):
    os.system("echo spoiled")
    print("spoiled as well", flush=True)
    return {}

agent.VERBS["shout"] = shout
agent.main()
"""


def converse(command: list, *requests: bytes, **settings) -> tuple:
    """The answers to ``requests``, the exit code, and what came on stderr."""
    settings.setdefault("env", fresh.environment())
    pipe = subprocess.PIPE
    done = subprocess.run(command, input=b"".join(requests), stdout=pipe, stderr=pipe, timeout=120, **settings)
    return [json.loads(line.decode()) for line in done.stdout.splitlines()], done.returncode, done.stderr.decode()


class Program(unittest.TestCase):
    def test_it_serves_stdin_until_it_ends(self):
        command = [sys.executable, "-m", "edgesdk_targets.agent"]
        answers, code, _ = converse(command, protocol.request(1, "probe", {}), b"nonsense\n")
        self.assertEqual([answer["id"] for answer in answers], [1, None])
        self.assertIn("architecture", answers[0]["result"])
        self.assertEqual((answers[1]["error"]["kind"], code), ("usage", 0))

    def test_what_is_printed_does_not_spoil_the_answers(self):
        answers, _, errors = converse([sys.executable, "-c", LOUD], protocol.request(1, "shout", {}))
        self.assertEqual(answers, [{"protocol": 1, "id": 1, "result": {}}])
        self.assertEqual(errors.splitlines(), ["spoiled", "spoiled as well"])

    def test_telemetry_is_off_before_a_runtime_is_imported(self):
        code = LOUD.replace("shout(report):", "shout(report):\n    return dict(os.environ)")
        environment = {key: value for key, value in fresh.environment().items() if key != "ORT_DISABLE_TELEMETRY"}
        answers, _, _ = converse([sys.executable, "-c", code], protocol.request(1, "shout", {}), env=environment)
        self.assertEqual(answers[0]["result"]["ORT_DISABLE_TELEMETRY"], "1")

    def test_it_ends_when_the_host_is_gone(self):
        command = [sys.executable, "-m", "edgesdk_targets.agent"]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=fresh.environment()) as agent:
            reader(agent).close()
            say(agent, protocol.request(1, "probe", {}))
            self.assertEqual(agent.wait(60), 1)

    def test_it_ends_when_the_host_is_gone_while_it_works(self):
        for work in ("time.sleep(600)", "fresh.ask('rest', {})"):
            code = LOUD.replace("shout(report):", "shout(report):\n    scratch.folder()\n    report({})\n    " + work)
            code = BUSY + code
            with tempfile.TemporaryDirectory() as folder:
                environment = dict(fresh.environment(), TMPDIR=folder)
                pipe = subprocess.PIPE
                with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, env=environment) as agent:
                    say(agent, protocol.request(1, "shout", {}))
                    reader(agent).readline()
                    self.assertEqual(len(os.listdir(folder)), 1)
                    reader(agent).close()
                    self.assertEqual(agent.wait(60), 1)
                    self.assertEqual(os.listdir(folder), [])

    def test_work_that_does_not_let_itself_be_stopped_ends_a_little_later(self):
        stubborn = "\n    while True:\n        try: time.sleep(600)\n        except SystemExit: pass"
        code = LOUD.replace("shout(report):", "shout(report):\n    report({})" + stubborn)
        code = BUSY + code.replace("agent.main()", "agent.END_SECONDS = 0.1\nagent.main()")
        pipe = subprocess.PIPE
        with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, env=fresh.environment()) as agent:
            say(agent, protocol.request(1, "shout", {}))
            reader(agent).readline()
            reader(agent).close()
            self.assertEqual(agent.wait(60), 1)

    def test_a_fresh_process_ends_with_the_agent_that_asked_it(self):
        code = BUSY + "print(os.getpid(), flush=True)\n" + LOUD.replace("return {}", "time.sleep(600)")
        pipe = subprocess.PIPE
        asking = "import subprocess, sys, os\nchild = subprocess.Popen([sys.executable, '-c', sys.argv[1]], stdin=-1, "
        asking += "stdout=-1)\nchild.stdin.write(sys.argv[2].encode())\nchild.stdin.flush()\n"
        asking += "print(int(child.stdout.readline()), flush=True)\nchild.stdout.read(1)\n"
        line = protocol.request(1, "shout", {}).decode()
        command = [sys.executable, "-c", asking, code, line]
        with subprocess.Popen(command, stdout=pipe, stderr=pipe, env=fresh.environment()) as agent:
            child = int(reader(agent).readline())
            agent.kill()
        for _ in range(600):
            if not os.path.exists(f"/proc/{child}"):
                return
            time.sleep(0.1)
        self.fail("the fresh process is still there")

    @agent_models.needs_runtime
    def test_it_runs_from_a_zip_archive_fresh_processes_included(self):
        with tempfile.TemporaryDirectory() as folder:
            archive, model = os.path.join(folder, "agent.pyz"), os.path.join(folder, "a.onnx")

            def only_agent(path):
                return path.parts[:1] == ("edgesdk_targets",) and path.suffix != ".pyc"

            main = "edgesdk_targets.agent.__main__:main"
            zipapp.create_archive(fresh.package_root(), archive, main=main, filter=only_agent)
            agent_models.write(model, agent_models.conv())
            environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
            command = [sys.executable, archive]
            answers, code, _ = converse(
                command, protocol.request(1, "load", {"path": model}), env=environment, cwd=folder
            )
            self.assertEqual((code, len(answers[-1]["result"]["samples"])), (0, 3))


class Source(unittest.TestCase):
    def trees(self):
        for folder, _, names in os.walk(AGENT):
            for name in sorted(names):
                if name.endswith(".py"):
                    with open(os.path.join(folder, name), encoding="utf-8") as file:
                        text = file.read()
                    yield os.path.relpath(os.path.join(folder, name), AGENT), text

    def test_every_module_parses_as_python_3_8_and_leaves_annotations_unevaluated(self):
        names = []
        for name, text in self.trees():
            tree = ast.parse(text, name, feature_version=(3, 8))
            names.append(name)
            if len(tree.body) > 1 and name != "__main__.py":  # which any Python reads
                self.assertIn("from __future__ import annotations", text, name)
        self.assertIn("measure.py", names)

    def test_older_pythons_are_told_what_the_agent_needs(self):
        # A Python that is older than the agent reads this one file, and the package's docstrings, before it is told.
        path = os.path.join(AGENT, "__main__.py")
        with open(path, encoding="utf-8") as file:
            text = file.read()
        self.assertEqual(text, text.encode("ascii").decode())
        tree = ast.parse(text, path, feature_version=(3, 4))
        newer = [node for node in ast.walk(tree) if isinstance(node, (ast.JoinedStr, ast.AnnAssign, ast.NamedExpr))]
        typed = [node for node in ast.walk(tree) if getattr(node, "annotation", None) or getattr(node, "returns", None)]
        self.assertEqual(newer + typed, [])
        says = "import sys; sys.version_info = (3, 6, 15); exec(compile(open(sys.argv[1]).read(), 'agent', 'exec'))"
        done = subprocess.run([sys.executable, "-c", says, path], stderr=subprocess.PIPE, env=fresh.environment())
        self.assertEqual(done.returncode, 1)
        self.assertEqual(done.stderr, b"the edgesdk agent needs Python 3.8 or newer, and this is 3.6\n")

    def test_importing_the_agent_imports_the_standard_library_alone(self):
        code = "import sys; from edgesdk_targets.agent import __main__; print('\\n'.join(sys.modules))"
        done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, env=fresh.environment(), check=True)
        loaded = {name.split(".")[0] for name in done.stdout.decode().split()}
        self.assertIn("edgesdk_targets", loaded)
        self.assertFalse(loaded & {"numpy", "torch", "onnx", "onnxruntime", "edgesdk"})


if __name__ == "__main__":
    unittest.main()
