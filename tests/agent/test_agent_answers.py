from __future__ import annotations

import base64
import io
import os
import tempfile
import unittest
from typing import Any

import agent_models

from edgesdk_targets.agent import answers, runners, scratch
from edgesdk_targets.agent.protocol import AgentError


def fetched(size: int) -> dict[str, Any]:
    """What the host puts together of the pieces."""
    import numpy

    content = b""
    while len(content) < size:
        content += base64.b64decode(answers.fetch(print, offset=len(content))["data"])
    with numpy.load(io.BytesIO(content)) as arrays:
        return {name: arrays[name] for name in arrays.files}


class Answers(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def sample(self, *values: Any, name: str = "sample.npz") -> str:
        import numpy

        path = os.path.join(self.folder, name)
        numpy.savez(path, **{str(place): value for place, value in enumerate(values)})
        return path

    @agent_models.needs_runtime
    def test_outputs_are_the_runtimes_own_in_their_order(self):
        import numpy
        import onnxruntime

        for model in (agent_models.conv(), agent_models.two_outputs()):
            path = agent_models.write(os.path.join(self.folder, "model.onnx"), model)
            session = onnxruntime.InferenceSession(path)
            draw = numpy.random.default_rng(0).standard_normal
            x = {given.name: draw(given.shape).astype("float32") for given in session.get_inputs()}
            told = answers.answers(print, path=path, inputs=self.sample(*x.values()), runtime="onnxruntime")
            self.assertEqual(told["version"], onnxruntime.__version__)
            wanted = session.run(None, x)
            found = fetched(told["bytes"])
            self.assertEqual(list(found), [str(place) for place in range(len(wanted))])
            for place, value in enumerate(wanted):
                numpy.testing.assert_allclose(found[str(place)], numpy.asarray(value), rtol=1e-5, atol=1e-6)

    @agent_models.needs_runtime
    def test_a_runtime_that_reads_such_files_stands_in(self):
        import numpy

        path = agent_models.write(os.path.join(self.folder, "model.onnx"), agent_models.conv())
        session = runners.runner("onnxruntime").load(path, 1)
        x = numpy.ones(session.inputs[0]["shape"], "float32")
        told = answers.answers(print, path=path, inputs=self.sample(x), runtime="tensorrt")
        self.assertEqual(told["runtime"], "onnxruntime")

    @agent_models.needs_runtime
    def test_what_cannot_be_answered(self):
        import numpy

        path = agent_models.write(os.path.join(self.folder, "model.onnx"), agent_models.conv())
        x = numpy.ones((1, 1), "float32")
        same = {"path": path, "runtime": "onnxruntime"}
        for kind, arguments in (
            ("missing", {**same, "inputs": os.path.join(self.folder, "gone.npz")}),
            ("missing", {**same, "path": path + "x", "inputs": self.sample(x)}),
            ("usage", {**same, "inputs": self.sample(x, x, name="two.npz")}),
            ("usage", {**same, "inputs": self.sample(x), "runtime": "abacus"}),
            ("usage", {**same, "inputs": self.sample(x), "threads": 0}),
            ("usage", {**same, "inputs": agent_models.write(os.path.join(self.folder, "none.npz"), b"PK")}),
            ("runtime", {**same, "inputs": self.sample(x, name="small.npz")}),
        ):
            with self.assertRaises(AgentError) as caught:
                answers.answers(print, **arguments)  # type: ignore[arg-type]
            self.assertEqual(caught.exception.kind, kind)

    def test_what_cannot_be_fetched(self):
        path = os.path.join(scratch.folder(), answers.NAME)
        if os.path.exists(path):
            os.remove(path)
        for kind, offset in (("missing", 0), ("usage", -1), ("usage", True), ("usage", "0")):
            with self.assertRaises(AgentError) as caught:
                answers.fetch(print, offset=offset)  # type: ignore[arg-type]
            self.assertEqual(caught.exception.kind, kind)
        with open(path, "wb") as file:
            file.write(b"x" * (answers.PIECE_BYTES + 3))
        pieces = [answers.fetch(print, offset=place * answers.PIECE_BYTES)["data"] for place in range(3)]
        self.assertEqual([len(base64.b64decode(piece)) for piece in pieces], [answers.PIECE_BYTES, 3, 0])
        os.remove(path)
