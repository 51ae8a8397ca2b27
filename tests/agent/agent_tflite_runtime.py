"""The runner of tflite-runtime, which wants NumPy 1 and so an environment of its own: test_conformance.py makes it."""

from __future__ import annotations

import unittest

import agent_models
from test_agent_runners import TFLITE, OnDisk

from edgesdk_targets.agent import measure, runners


class TFLite(OnDisk):
    def test_it_runs_a_whole_file_and_refuses_a_part_of_it(self):
        runner = runners.runner("tflite")
        for source in (agent_models.DENSE, self.path("a.tflite", agent_models.DENSE)):
            session = runner.load(source, 1)
            self.assertEqual(session.inputs, [{"name": "x", "shape": [1, 8], "dtype": "float32"}])
            session.bind()()
        for content in (agent_models.DENSE[:400], TFLITE, b"", b"no model"):
            for source in (content, self.path("cut.tflite", content)):
                self.assertEqual(self.refused(runner.load, source, 1).kind, "runtime")

    def test_kernels(self):
        path = self.path("a.tflite", agent_models.DENSE)
        kernels = measure.kernels(self.reports.append, path=path, runtime="tflite")["kernels"]
        self.assertEqual([kernel["precision"] for kernel in kernels], ["float32", "float32"])


if __name__ == "__main__":
    unittest.main()
