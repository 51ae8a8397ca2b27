"""A bundle's ``run.py`` in each runtime."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import unittest

import agent_models

from edgesdk_targets.agent import fresh

SCRIPT = os.path.join(fresh.package_root(), "edgesdk_targets", "bundle_run.py")


class Bundle(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def path(self, name: str, content: bytes) -> str:
        return agent_models.write(os.path.join(self.folder, name), content)

    def sums(self, path: str, runtime: str):
        """The model of two outputs gives them by the file's names, in the file's order."""
        import numpy

        from edgesdk_targets.bundle_run import opened

        model = opened(path, runtime)
        feeds = {"a": numpy.arange(4, dtype="float32")[None], "b": numpy.array([[-1, 1, -1, 1]], "float32")}
        self.assertEqual((model.inputs, model.outputs), (["b", "a"], ["sum", "positive"]))
        first = model.run(feeds)
        kept = [array.copy() for array in first]
        model.run({name: array + 1 for name, array in feeds.items()})
        for actual, copy, expected in zip(first, kept, ([[-1, 2, 1, 4]], [[0, 1, 0, 1]])):
            numpy.testing.assert_array_equal(actual, expected)
            numpy.testing.assert_array_equal(actual, copy)

    def run_bundle(self, model: str, runtime: str, weights: str | None, expected: dict) -> str:
        """What a bundle of ``model``, which takes 8 numbers ``x``, prints as it runs its recorded sample."""
        import numpy

        place = os.path.join(self.folder, "bundle")
        os.makedirs(place)
        for path in [model] + ([weights] if weights else []):
            shutil.copy(path, place)
        shutil.copy(SCRIPT, os.path.join(place, "run.py"))
        manifest = {
            "runtime": {"name": runtime, "precision": None},
            "model": os.path.basename(model),
            "inputs": [{"name": "x", "shape": [1, 8], "dtype": "float32"}],
            "outputs": [{"name": name} for name in expected],
        }
        agent_models.write(os.path.join(place, "manifest.json"), json.dumps(manifest).encode())
        recorded = {f"output:{name}": value for name, value in expected.items()}
        numpy.savez(os.path.join(place, "sample.npz"), **{"input:x": numpy.eye(8, dtype="float32")[:2]}, **recorded)
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        for more in ([], ["--time", "0.01"]):
            command = [sys.executable, os.path.join(place, "run.py"), *more]
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True, env=environment, timeout=120)
            if not more:
                said = done.stdout.decode()
        package = {"litert": "ai-edge-litert"}.get(runtime, runtime)
        self.assertIn(f"1 thread, {package} ", done.stdout.decode())
        return said

    @agent_models.needs_runtime
    def test_onnxruntime(self):
        self.sums(self.path("a.onnx", agent_models.two_outputs()), "onnxruntime")

    @agent_models.needs_openvino
    def test_openvino(self):
        self.sums(self.path("a.onnx", agent_models.two_outputs()), "openvino")
        self.sums(agent_models.ir(self.folder, agent_models.two_outputs()), "openvino")

    @agent_models.needs_litert
    def test_litert(self):
        import numpy

        from edgesdk_targets.bundle_run import opened

        path = self.path("a.tflite", agent_models.dense())
        weights = numpy.arange(-16, 16, dtype="float32").reshape(4, 8)
        model = opened(path, "litert")
        self.assertEqual((model.inputs, model.outputs), (["x"], ["y", "z"]))
        made = [model.run({"x": row[None]}) for row in numpy.eye(8, dtype="float32")]
        for column, (y, z) in zip(weights.T, made):
            numpy.testing.assert_array_equal(z[0], column)
            numpy.testing.assert_array_equal(y[0], numpy.maximum(column, 0))

    @agent_models.needs_litert
    def test_a_bundle_of_a_tflite_file_runs_its_recorded_sample(self):
        import numpy

        made = numpy.arange(-16, 16, dtype="float32").reshape(4, 8).T[:2]
        path = self.path("model.tflite", agent_models.dense())
        said = self.run_bundle(path, "litert", None, {"y": numpy.maximum(made, 0), "z": made})
        self.assertIn("y: differs from the recorded sample by 0 of its spread", said)
        self.assertIn("z: differs from the recorded sample by 0 of its spread", said)

    @agent_models.needs_openvino
    def test_a_bundle_of_an_ir_runs_its_recorded_sample(self):
        import numpy
        from onnx import TensorProto, helper

        graph = helper.make_graph(
            [helper.make_node("Relu", ["x"], ["y"], name="relu")],
            "tiny",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8])],
        )
        path = agent_models.ir(self.folder, agent_models.as_bytes(graph))
        said = self.run_bundle(path, "openvino", path[:-4] + ".bin", {"y": numpy.eye(8, dtype="float32")[:2]})
        self.assertIn("y: differs from the recorded sample by 0 of its spread", said)

    @agent_models.needs_runtime
    def test_a_runtime_that_is_not_installed_is_named(self):
        from edgesdk_targets import bundle_run

        self.addCleanup(bundle_run.MODULES.pop, "abacus")
        bundle_run.MODULES["abacus"] = ["no_such_abacus.beads"]
        with self.assertRaisesRegex(ImportError, "abacus cannot be imported .*: pip install no-such-abacus"):
            bundle_run.opened("model", "abacus")


if __name__ == "__main__":
    unittest.main()
