"""The runners beside ONNX Runtime's, and what tells their files apart."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import unittest
from unittest import mock

import agent_models

from edgesdk_targets.agent import files, fresh, measure, memory, operators, probe, runners
from edgesdk_targets.agent.protocol import AgentError

IR = b'<?xml version="1.0"?>\n<net name="tiny" version="11"><layers/></net>'
TFLITE = b"\x1c\0\0\0TFL3" + bytes(32)
ONNX = b"\x08\x08\x12\x04tiny"
LAYERS = {"dense", "dense.weight", "relu:0"}  # of the dense TFLite file


class OnDisk(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        self.reports = []

    def path(self, name: str, content: bytes) -> str:
        return agent_models.write(os.path.join(self.folder, name), content)

    def refused(self, call, *given, **named) -> AgentError:
        with self.assertRaises(AgentError) as caught:
            call(*given, **named)
        return caught.exception

    def two_outputs(self, runtime: str, source):
        """The model of two outputs gives them by the file's names, as arrays of their own."""
        import numpy

        session = runners.runner(runtime).load(source, 1)
        values = {"a": numpy.arange(4, dtype="float32")[None], "b": numpy.array([[-1, 1, -1, 1]], "float32")}
        first = session.run_once(values)
        session.run_once({name: array + 1 for name, array in values.items()})
        self.assertEqual(sorted(first), ["positive", "sum"])
        numpy.testing.assert_array_equal(first["sum"], [[-1, 2, 1, 4]])
        numpy.testing.assert_array_equal(first["positive"], [[0, 1, 0, 1]])
        self.assertEqual(self.refused(session.run_once, {"a": values["a"]}).kind, "usage")
        wrong = dict(values, a=numpy.ones((2, 3), "float32"))
        self.assertEqual(self.refused(session.run_once, wrong).kind, "runtime")

    def assert_close(self, actual, expected):
        import numpy

        numpy.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


class Files(OnDisk):
    def test_kinds_are_told_by_content(self):
        marked = b"\xef\xbb\xbf" + IR
        cases = ((TFLITE, files.TFLITE), (IR, files.IR), (marked, files.IR), (ONNX, files.ONNX), (b"", None))
        for content, kind in (*cases, (b"nonsense", None), (b"<html>", None)):
            self.assertEqual(files.kind(content), kind, content)
            self.assertEqual(files.kind(self.path("model.bin", content)), kind, content)

    def test_a_file_of_another_runtime_is_named(self):
        path = self.path("model.onnx", TFLITE)
        error = self.refused(files.check, path, "openvino", files.IR, files.ONNX)
        self.assertEqual((error.kind, error.fact), ("usage", "model.onnx is a TFLite file"))
        self.assertEqual(error.remedy, "openvino here runs OpenVINO IR and ONNX files")
        error = self.refused(files.check, ONNX, "litert", files.TFLITE)
        self.assertEqual(str(error), "the model is an ONNX file: litert here runs TFLite files")
        self.assertEqual(self.refused(files.check, path + ".gone", "litert", files.TFLITE).kind, "missing")
        files.check(path, "litert", files.TFLITE)

    def test_a_tflite_file_is_whole_or_it_is_cut_somewhere(self):
        model = agent_models.DENSE
        self.assertTrue(files.is_whole(model))
        self.assertTrue(files.is_whole(self.path("a.tflite", model)))
        for size in range(8, len(model) - 16):
            self.assertFalse(files.is_whole(model[:size]), size)
        self.assertFalse(files.is_whole(self.path("cut.tflite", model[:400])))
        self.assertFalse(files.is_whole(b"\xff" * 4 + model[4:]))

    def test_an_ir_s_digest_covers_its_weights_and_no_other_file_s_does(self):
        path, weights = self.path("model.xml", IR), b"weights"
        self.assertEqual(files.digest(path), hashlib.sha256(IR).hexdigest())
        beside = self.path("model.bin", weights)
        self.assertEqual(files.belonging(path), [path, beside])
        self.assertEqual(files.digest(path), hashlib.sha256(IR + weights).hexdigest())
        other = self.path("model.onnx", ONNX)
        self.assertEqual(files.belonging(other), [other])
        self.assertEqual(files.digest(other), hashlib.sha256(ONNX).hexdigest())


class Installed(unittest.TestCase):
    def test_every_runner_that_is_installed_has_its_version(self):
        installed = probe.installed_runners()
        for name, version in installed.items():
            self.assertEqual(runners.runner(name).VERSION, version)
        for name in set(runners.RUNNERS) - set(installed):
            with self.assertRaises(AgentError) as caught:
                runners.runner(name)
            self.assertEqual(caught.exception.kind, "missing")

    def test_it_is_told_without_importing_one(self):
        code = "import sys; from edgesdk_targets.agent import probe; probe.installed_runners(); print(*sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, env=fresh.environment(), check=True)
        loaded = set(done.stdout.decode().split())
        self.assertIn("edgesdk_targets.agent.runners", loaded)
        self.assertFalse(loaded & {"numpy", "onnxruntime", "openvino", "ai_edge_litert", "tflite_runtime"})


class Differences(OnDisk):
    @agent_models.needs_runtime
    def test_rows_are_compared_with_what_was_recorded(self):
        import numpy

        from edgesdk_targets.agent.runners.arrays import difference

        expected = numpy.array([[0, 2], [4, 6]], "uint8")
        self.assertEqual(difference([expected[:1], expected[1:]], expected), (0.0, True))
        self.assertEqual(difference([expected.astype("float32")], expected), (0.0, False))
        error, identical = difference([expected + 1], expected)
        self.assertAlmostEqual(error, 1 / 5**0.5)
        self.assertFalse(identical)
        self.assertEqual(difference([expected[:1]], expected), (float("inf"), False))
        nothing = numpy.full((2, 2), float("nan"), "float32")
        self.assertEqual(difference([nothing], expected)[0], float("inf"))
        self.assertEqual(difference([nothing], nothing), (float("inf"), True))


@agent_models.needs_runtime
class OnnxRuntime(OnDisk):
    def test_one_run_gives_copies_of_the_outputs_by_name(self):
        self.two_outputs("onnxruntime", agent_models.two_outputs())

    def test_files_of_others_are_refused(self):
        runner = runners.runner("onnxruntime")
        for content in (IR, TFLITE):
            self.assertEqual(self.refused(runner.load, self.path("model.onnx", content), 1).kind, "usage")

    def test_kernels_tell_the_layers_that_they_stand_for(self):
        detail = {"op_name": "QLinearConv", "provider": "CPU", "node_index": "0"}
        event = {"cat": "Node", "name": "stem.0_token_12_kernel_time", "dur": 5, "args": detail}
        (kernel,) = runners.runner("onnxruntime").shares([event, event])
        self.assertEqual((kernel["name"], kernel["layers"]), ("stem.0_token_12", ["stem.0"]))
        self.assertIsNone(kernel["precision"])  # versions that tell no types

    def test_kernels_tell_their_tensors_where_the_model_as_it_runs_can_be_written(self):
        runner, path = runners.runner("onnxruntime"), self.path("model.onnx", agent_models.two_outputs())
        told = [(kernel["takes"], kernel["makes"]) for kernel in runner.profile(path, None, 1, lambda run: run())]
        self.assertEqual(sorted(told), [(["a", "b"], ["sum"]), (["b"], ["positive"])])
        os.mkdir(os.path.join(self.folder, "optimized.onnx"))  # so that nothing can be written there
        session, tensors = runner._profiled(path, 1, self.folder)
        self.assertEqual((tensors, len(session.inputs)), ({}, 2))
        self.addCleanup(setattr, runner, "WRITTEN_BYTES", runner.WRITTEN_BYTES)
        runner.WRITTEN_BYTES = os.path.getsize(path) - 1
        self.assertFalse(any("makes" in kernel for kernel in runner.profile(path, None, 1, lambda run: run())))

    def test_kernels_tell_what_they_compute_in(self):
        shares = runners.runner("onnxruntime").shares
        for name, types, precision in (
            ("Conv", ["float", "float", "float"], "float"),
            ("QLinearConv", ["uint8", "float", "uint8", "int8"], "uint8"),
            ("MatMulNBits", ["float", "uint8", "float"], "float"),
            ("DynamicQuantizeMatMul", ["float", "int8"], "int8"),
            ("Shape", [], None),
        ):
            detail = {"op_name": name, "input_type_shape": [{each: [1, 2]} for each in types]}
            (kernel,) = shares([{"cat": "Node", "name": "a_kernel_time", "dur": 5, "args": detail}])
            self.assertEqual(kernel["precision"], precision)


@agent_models.needs_openvino
class OpenVino(OnDisk):
    def setUp(self):
        super().setUp()
        self.runner = runners.runner("openvino")

    def ir(self, model: bytes) -> str:
        return agent_models.ir(self.folder, model)

    def test_one_run_gives_copies_of_the_outputs_by_name(self):
        self.two_outputs("openvino", agent_models.two_outputs())
        self.two_outputs("openvino", self.ir(agent_models.two_outputs()))

    def test_an_ir_an_onnx_file_and_its_bytes_compute_the_same(self):
        import numpy
        from onnx import load_from_string, numpy_helper

        model = agent_models.conv()
        weight = numpy_helper.to_array(load_from_string(model).graph.initializer[0])
        for source in (self.ir(model), self.path("a.onnx", model), model):
            session = self.runner.load(source, 1)
            self.assertEqual(session.inputs, [{"name": "x", "shape": [1, 8, 8, 8], "dtype": "float32"}])
            self.assertEqual((session.providers, session.precision), (["CPU"], "f32"))
            values = self.runner.sample(session.inputs)
            run = session.bind(values)
            run()
            output = run.request.get_output_tensor(0).data
            middle = numpy.einsum("oihw,ihw->o", weight, values["x"][0, :, 2:5, 4:7])
            self.assert_close(output[0, :, 3, 5], numpy.maximum(middle, 0))

    def test_given_inputs_outlive_whoever_made_them_and_may_be_of_a_dynamic_size(self):
        import gc

        import numpy

        session = self.runner.load(agent_models.conv(batch="batch"), 1)
        self.assertEqual(session.inputs[0]["shape"], [1, 8, 8, 8])
        given = numpy.ones((3, 8, 8, 8), "float32")
        run = session.bind({"x": given.copy()})
        first = run.request.get_output_tensor(0).data.copy()
        gc.collect()
        junk = [numpy.full((3, 8, 8, 8), 7, "float32") for _ in range(100)]
        run()
        self.assertEqual((first.shape, len(junk)), ((3, 8, 8, 8), 100))
        self.assert_close(run.request.get_output_tensor(0).data, first)

    def test_integers_and_halves(self):
        session = self.runner.load(agent_models.gather(), 1)
        self.assertEqual([item["dtype"] for item in session.inputs], ["float16", "int64"])
        values = self.runner.sample(session.inputs)
        run = session.bind(values)
        run()
        self.assert_close(run.request.get_output_tensor(0).data, values["x"][[0, 0]])

    def test_what_it_refuses(self):
        import numpy

        load = self.runner.load
        self.assertEqual(self.refused(load, self.path("model.onnx", TFLITE), 1).kind, "usage")
        self.assertEqual(self.refused(load, os.path.join(self.folder, "gone.xml"), 1).kind, "missing")
        path = self.ir(agent_models.conv())
        os.truncate(path[:-4] + ".bin", 100)
        for source in (path, self.path("cut.xml", IR[:40]), self.path("a.onnx", b"no model"), b"no model"):
            error = self.refused(load, source, 1)
            self.assertEqual(error.kind, "runtime")
            self.assertIn("OpenVINO", error.fact)
            self.assertNotIn("\n", error.fact)
        session = load(agent_models.conv(), 1)
        self.assertEqual(self.refused(session.bind, {"x": numpy.ones((2, 8, 8, 8), "float32")}).kind, "runtime")
        self.assertEqual(self.refused(session.bind, {"x": numpy.ones((1, 8, 8, 8))}).kind, "usage")

    def test_kernels_that_ran(self):
        result = measure.kernels(self.reports.append, path=self.ir(agent_models.conv(32, 32)), runtime="openvino")
        kernels = {name: kernel for kernel in result["kernels"] for name in kernel["layers"]}
        self.assertEqual((kernels["conv"]["operator"], kernels["conv"]["precision"]), ("Convolution", "f32"))
        self.assertIs(kernels["w"], kernels["conv"])
        self.assertAlmostEqual(sum(kernel["share"] for kernel in result["kernels"]), 1)
        self.assertFalse({kernel["operator"] for kernel in result["kernels"]} & {"Input", "Const", "Output"})

    def test_a_run_that_was_interrupted_is_not_what_a_kernel_takes(self):
        """Means are of a block's own runs, without the first ones of its model, and one long block decides nothing."""
        means = {2: [100, 100, 100, 100], 12: [48, 4000, 48, 42]}  # in us, by the runs so far: of each block

        def take(run, anew):
            for block in range(4):
                run = anew() if block else run
                for _ in range(10):
                    run()

        take.seconds = 1.0
        made = []

        class Block(self.runner._Block):
            def __init__(self, *given):
                made.append(self)
                super().__init__(*given)

            def _means(self):
                return [means[self.count][made.index(self)]]

        with mock.patch.object(self.runner, "_Block", Block):
            (kernel,) = self.runner.profile(self.ir(agent_models.conv()), None, 1, take)[:1]
        self.assertEqual((len(made), kernel["profiled_ms"]), (4, 0.038))  # (12 * 48 - 2 * 100) / 10 us

    def test_load_memory_and_operators(self):
        path = self.ir(agent_models.conv(512, 8))
        weights = 512 * 512 * 9 * 4
        usage = memory.memory(self.reports.append, path=path, runtime="openvino")
        self.assertGreaterEqual(usage["resident_added"], weights)
        self.assertEqual(usage["digest"], files.digest(path))
        self.assertGreater(memory.load(self.reports.append, path=path, runtime="openvino")["load_ms"], 0)
        result = operators.operators(
            self.reports.append, models=[{"key": "a", "path": path}, {"key": "b"}], runtime="openvino", rounds=1
        )
        self.assertEqual(["error" in item for item in result["results"]], [False, True])


@agent_models.needs_ncnn
class Ncnn(OnDisk):
    TWO = b"""7767517
5 6
Input a 0 1 a 0=4
Input b 0 1 b 0=4
Split twice 1 2 b b0 b1
BinaryOp sum 2 1 a b0 sum 0=0
ReLU positive 1 1 b1 positive
"""
    WEIGHTED = b"7767517\n2 2\nInput x 0 1 x 0=4\nInnerProduct y 1 1 x y 0=2 2=8\n"

    def test_outputs_have_the_names_of_the_file_whether_its_numbers_are_beside_it_or_in_it(self):
        path = self.path("model.ncnn.param", self.TWO)
        self.path("model.ncnn.bin", b"")
        self.assertEqual(files.belonging(path), [path, path[:-6] + ".bin"])
        self.two_outputs("ncnn", path)
        self.two_outputs("ncnn", self.TWO + b"\0")
        self.two_outputs("ncnn", self.path("one.ncnn.param", self.TWO + b"\0"))

    def test_what_it_cannot_load_is_refused_in_its_own_words(self):
        load = runners.runner("ncnn").load
        for content, said in (
            (self.WEIGHTED + b"\0" + bytes(12), "read weight_data failed"),
            (self.TWO.replace(b"ReLU", b"Relux") + b"\0", "Relux not exists"),
        ):
            error = self.refused(load, content, 1)
            self.assertEqual(error.kind, "runtime")
            self.assertIn(said, str(error))
        error = self.refused(load, self.TWO.replace(b" 0=4", b"") + b"\0", 1)
        self.assertIn("does not say the shape of its input a", str(error))
        self.assertEqual(self.refused(load, ONNX, 1).kind, "usage")


@agent_models.needs_litert
class LiteRT(OnDisk):
    def setUp(self):
        super().setUp()
        self.runner = runners.runner("litert")

    def outputs(self, session) -> list:
        return [session.interpreter.get_tensor(item["index"]) for item in session.interpreter.get_output_details()]

    def test_a_bound_run_computes_what_is_in_the_file(self):
        import numpy

        model = agent_models.dense()
        for source in (self.path("a.tflite", model), model):
            session = self.runner.load(source, 1)
            self.assertEqual(session.inputs, [{"name": "x", "shape": [1, 8], "dtype": "float32"}])
            self.assertEqual((session.providers, session.precision), (["XNNPACK"], None))
            values = self.runner.sample(session.inputs)
            run = session.bind(values)
            for _ in range(3):
                run()
            made = values["x"] @ numpy.arange(-16, 16, dtype="float32").reshape(4, 8).T
            for actual, expected in zip(self.outputs(session), (numpy.maximum(made, 0), made)):
                self.assert_close(actual, expected)

    def test_one_run_gives_copies_of_the_outputs_by_name(self):
        import numpy

        session = self.runner.load(agent_models.dense(), 1)
        weights = numpy.arange(-16, 16, dtype="float32").reshape(4, 8)
        first, second = (session.run_once({"x": row[None]}) for row in numpy.eye(8, dtype="float32")[[0, 7]])
        for actual, column in ((first, weights[:, 0]), (second, weights[:, 7])):
            self.assertEqual(sorted(actual), ["y", "z"])
            numpy.testing.assert_array_equal(actual["z"], column[None])
            numpy.testing.assert_array_equal(actual["y"], numpy.maximum(column, 0)[None])
        self.assertEqual(self.refused(session.run_once, {}).kind, "usage")

    def test_without_a_signature_the_tensors_give_the_names(self):
        session = self.runner.load(agent_models.dense(signature=False), 1)
        self.assertEqual(session.inputs[0]["name"], "serving_x:0")

    def test_a_dynamic_size_is_one_and_may_be_given_and_a_fixed_one_may_not(self):
        import numpy

        given = {"x": numpy.ones((3, 8), "float32")}
        session = self.runner.load(agent_models.dense(batch=None), 1)
        self.assertEqual(session.inputs[0]["shape"], [1, 8])
        session.bind(given)()
        self.assertEqual(self.outputs(session)[0].shape, (3, 4))
        session.bind()()
        self.assertEqual(self.outputs(session)[0].shape, (1, 4))
        self.assertEqual(self.refused(self.runner.load(agent_models.dense(), 1).bind, given).kind, "runtime")

    def test_what_it_refuses(self):
        load, model = self.runner.load, agent_models.dense()
        error = self.refused(load, self.path("model.tflite", IR), 1)
        self.assertEqual((error.kind, error.fact), ("usage", "model.tflite is an OpenVINO IR file"))
        for content in (model[: len(model) // 2], TFLITE, b"\xff" * 4 + model[4:], b"no model", b""):
            for source in (content, self.path("cut.tflite", content)):
                error = self.refused(load, source, 1)
                self.assertEqual((error.kind, "\n" in error.fact), ("runtime", False))

    def kernels(self, path: str, seconds: float = 0.1) -> dict:
        return measure.kernels(self.reports.append, path=path, runtime="litert", seconds=seconds)

    def test_kernels_tell_who_runs_them_and_in_what(self):
        for dtype in ("float32", "int8"):
            path = self.path("a.tflite", agent_models.dense(dtype))
            kernels = self.kernels(path, 0)["kernels"]
            self.assertEqual([kernel["operator"] for kernel in kernels], ["FULLY_CONNECTED", "RELU"])
            self.assertEqual(kernels[0]["layers"], ["dense", "dense.weight"])
            self.assertEqual({kernel["precision"] for kernel in kernels}, {dtype})
            self.assertEqual(kernels[0]["provider"], "XNNPACK")
            self.assertEqual({kernel["profiled_ms"] for kernel in kernels}, {None})

    def test_its_profiler_tells_what_each_takes(self):
        for dtype, batch, signature in (("float32", 1, True), ("int8", 1, True), ("float32", 1, False)):
            told = self.kernels(self.path("a.tflite", agent_models.dense(dtype, batch, signature)))
            kernels = told["kernels"]
            self.assertEqual({name for kernel in kernels for name in kernel["layers"]}, LAYERS)
            (product,) = [kernel for kernel in kernels if "dense.weight" in kernel["layers"]]
            self.assertEqual(product["operator"], "FULLY_CONNECTED")
            self.assertIn("Fully Connected", product["primitive"])
            self.assertTrue(all(kernel["low_ms"] <= kernel["profiled_ms"] <= kernel["high_ms"] for kernel in kernels))
            self.assertTrue(told["runs"] >= 4 and told["profiled_run_ms"] > 0 and told["plain_run_ms"] > 0)

    def test_it_tells_nothing_on_stderr_of_the_accelerators_that_are_not_there(self):
        path = self.path("a.tflite", agent_models.dense())
        code = "from edgesdk_targets.agent import measure; measure.kernels(print, path={!r}, runtime='litert')"
        done = subprocess.run([sys.executable, "-c", code.format(path)], stderr=subprocess.PIPE, check=True)
        self.assertNotIn(b"ccelerator", done.stderr)

    def test_a_version_whose_profiler_cannot_be_asked_tells_the_operators_alone(self):
        from edgesdk_targets.agent.runners import litert_profiler

        path = self.path("a.tflite", agent_models.dense())
        self.addCleanup(setattr, litert_profiler, "LIBRARY", litert_profiler.LIBRARY)
        for library in ("libLacking.so", "/bin/true", "libc.so.6"):  # none, no library, another one
            litert_profiler.LIBRARY = library
            told = self.kernels(path)
            self.assertEqual([kernel["operator"] for kernel in told["kernels"]], ["FULLY_CONNECTED", "RELU"])
            self.assertEqual({kernel["profiled_ms"] for kernel in told["kernels"]}, {None})
            self.assertEqual((told["runs"], told["profiled_run_ms"], told["plain_run_ms"]), (0, None, None))

    def test_inputs_of_other_sizes_than_the_file_s_have_no_times(self):
        import numpy

        inputs = os.path.join(self.folder, "inputs.npz")
        numpy.savez(inputs, x=numpy.ones((3, 8), "float32"))
        path = self.path("a.tflite", agent_models.dense(batch=None))
        told = measure.kernels(self.reports.append, path=path, inputs=inputs, runtime="litert", seconds=0.1)
        self.assertEqual({kernel["profiled_ms"] for kernel in told["kernels"]}, {None})

    def test_what_xnnpack_ran_is_of_the_operators_that_it_was_given(self):
        from edgesdk_targets.agent.runners.litert_kernels import timed
        from edgesdk_targets.agent.runners.litert_profiler import OWN, XNNPACK, Event, Lacking

        names = ["PAD", "CONV_2D", "ADD", "CONV_2D", "DELEGATE", "DELEGATE"]
        ends = [([0], [1]), ([1], [2]), ([2], [3]), ([3], [4]), ([0], [2]), ([2], [3])]
        operators = [
            {"index": index, "op_name": name, "inputs": ends[index][0], "outputs": ends[index][1]}
            for index, name in enumerate(names)
        ]
        kernels = [{"operator": name, "layers": [f"{name} {index}"]} for index, name in enumerate(names[:4])]
        events = [
            Event(XNNPACK, 0, "Convolution (NHWC, F32) IGEMM", 5),
            Event(XNNPACK, 1, "Copy (NC, X32)", 1),
            Event(XNNPACK, 0, "Add (ND)", 2),
            Event(XNNPACK, 1, "Clamp (NC)", 1),
            Event(OWN, 3, "CONV_2D", 7),
        ]
        told = timed(kernels, operators, [events, events])
        self.assertEqual(
            [(kernel["operator"], kernel["layers"], kernel["profiled_ms"]) for kernel in told],
            [
                ("CONV_2D", ["CONV_2D 1", "PAD 0"], 0.005),  # the border is fused into what reads it
                ("Copy (NC, X32)", [], 0.001),
                ("ADD", ["ADD 2"], 0.003),  # with its own activation
                ("CONV_2D", ["CONV_2D 3"], 0.007),
            ],
        )
        other = Event(XNNPACK, 0, "Convolution (NHWC, F32) IGEMM", 5)
        for run in (events[1:], events[:2], [*events[:2], other, *events[2:]], [*events[:4], Event(OWN, 2, "ADD", 1)]):
            with self.assertRaises(Lacking):
                timed(kernels, operators, [run])

    def test_what_a_delegate_left_is_told(self):
        from edgesdk_targets.agent.runners import tflite_session

        def operator(index, name, inputs, outputs):
            return {"index": index, "op_name": name, "inputs": inputs, "outputs": outputs}

        chain = [operator(index, "RELU", [index], [index + 1]) for index in range(5)]
        between = [operator(5, "DELEGATE", [1], [3]), operator(6, "DELEGATE", [4], [5])]
        self.assertEqual(tflite_session.delegated(chain), set())
        self.assertEqual(tflite_session.delegated(chain + between), {1, 2, 4})

    def test_load_memory_and_operators(self):
        path = self.path("a.tflite", agent_models.dense())
        usage = memory.memory(self.reports.append, path=path, runtime="litert", baseline=path)
        self.assertEqual((usage["input_bytes"], len(usage["samples"])), (32, 3))
        self.assertGreater(memory.load(self.reports.append, path=path, runtime="litert")["load_ms"], 0)
        result = operators.operators(self.reports.append, models=[{"key": "a", "path": path}], runtime="litert")
        self.assertGreater(result["results"][0]["ms"], 0)


@agent_models.needs_runtime
@agent_models.needs_openvino
@agent_models.needs_litert
class Together(OnDisk):
    def test_artifacts_of_several_runtimes_are_timed_in_one_run(self):
        artifacts = [
            {"name": "a", "path": self.path("a.onnx", agent_models.conv())},
            {"name": "b", "path": agent_models.ir(self.folder, agent_models.conv()), "runtime": "openvino"},
            {"name": "c", "path": self.path("c.tflite", agent_models.dense()), "runtime": "litert"},
        ]
        settings = {"minimum_count": 20, "minimum_seconds": 0.05, "warmup_seconds": 0.01}
        result = measure.benchmark(self.reports.append, artifacts=artifacts, **settings)
        told = [tuple(item["runtime"][key] for key in ("name", "precision")) for item in result["artifacts"]]
        self.assertEqual(told, [("onnxruntime", None), ("openvino", "f32"), ("litert", None)])
        for item in result["artifacts"]:
            self.assertGreater(len(item["block_medians_ms"]), 1)
            self.assertEqual(item["runtime"]["version"], probe.installed_runners()[item["runtime"]["name"]])
        self.assertEqual(result["runtime"]["providers"], ["CPUExecutionProvider"])
        self.assertEqual(json.loads(json.dumps(result))["runtime"]["name"], "onnxruntime")
        result = measure.benchmark(self.reports.append, artifacts=artifacts[1:2], **settings)
        self.assertIsNone(result["runtime"]["providers"])
        self.assertEqual(result["artifacts"][0]["digest"], files.digest(artifacts[1]["path"]))

    def test_a_runtime_that_is_none(self):
        item = {"name": "a", "path": self.path("a.onnx", agent_models.conv())}
        for name in ("abacus", 7):
            error = self.refused(measure.benchmark, self.reports.append, artifacts=[dict(item, runtime=name)])
            self.assertEqual(error.kind, "usage")


if __name__ == "__main__":
    unittest.main()
