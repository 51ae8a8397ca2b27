"""TensorRT through ``trtexec``: what it is called with, what it says read, and what goes wrong with it."""

from __future__ import annotations

import contextlib
import json
import os
import struct
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path
from unittest import mock

import agent_models
import agent_trtexec

from edgesdk_targets.agent import answers, fresh, measure, memory, onnx_file, probe, protocol, runners, trtexec
from edgesdk_targets.agent.protocol import AgentError

MODULE = "edgesdk_targets.agent.runners.tensorrt_runner"
VERSIONS = ("8.5", "8.6", "10", "11")
# The detailed layer of TensorRT's documentation, "Engine Inspector", cut down to what is read.
DOCUMENTED = {
    "Name": "node_of_gpu_0/res4_0_branch2a_1 + node_of_gpu_0/res4_0_branch2a_bn_1 + node_of_gpu_0/res4_0_branch2a_bn_2",
    "LayerType": "CaskConvolution",
    "Inputs": [{"Name": "gpu_0/res3_3_branch2c_bn_3", "Dimensions": [16, 512, 28, 28],
                "Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format."}],
    "Outputs": [{"Name": "gpu_0/res4_0_branch2a_bn_2", "Dimensions": [16, 256, 28, 28],
                 "Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format."}],
    "ParameterType": "Convolution", "Weights": {"Type": "Int8", "Count": 131072},
    "Bias": {"Type": "Float", "Count": 256},
    "TacticName": "sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32_nchw_vect_c_32kcrs",
}  # fmt: skip
RUN = {"startComputeMs": 210.0, "latencyMs": 2.5, "computeMs": 2.0}


def refused(call, *given, **named) -> AgentError:
    try:
        call(*given, **named)
    except AgentError as error:
        return error
    raise AssertionError("nothing was refused")


class Board(unittest.TestCase):
    """A board with a stand-in for ``trtexec``."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.log = self.folder / "log"
        kept = {name: os.environ.get(name) for name in ("EDGESDK_ENGINES", "XDG_CACHE_HOME", "EDGESDK_TRTEXEC")}
        self.addCleanup(self._restore, kept)
        os.environ["EDGESDK_ENGINES"] = str(self.folder / "engines")
        os.environ["XDG_CACHE_HOME"] = str(self.folder / "cache")

    def _restore(self, kept):
        sys.modules.pop(MODULE, None)
        for name, value in kept.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})

    def has(self, version: str = "10", fault: str = "none", **more) -> None:
        """The board has that version from now on."""
        path = self.folder / f"bin-{version}-{fault}" / "trtexec"
        os.environ["EDGESDK_TRTEXEC"] = str(agent_trtexec.write(path, version, fault, log=self.log, **more))
        sys.modules.pop(MODULE, None)

    def model(self, content: bytes, name: str = "model.onnx") -> str:
        return agent_models.write(str(self.folder / name), content)

    def calls(self) -> list:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [call for call in map(json.loads, lines) if call != ["--help"]]


class Versions(Board):
    def test_its_number_is_told_apart(self):
        for text, version in (
            ("8502", (8, 5, 2)), ("8412", (8, 4, 12)), ("8601", (8, 6, 1)), ("100300", (10, 3, 0)),
            ("101401", (10, 14, 1)), ("110401", (11, 4, 1)), ("8.6.1", (8, 6, 1)), ("10.3.0.30", (10, 3, 0)),
        ):  # fmt: skip
            said = f"&&&& RUNNING TensorRT.trtexec [TensorRT v{text}] [b24] # trtexec --help\n=== Model Options ==="
            self.assertEqual(trtexec.parsed_version(said), version)
        self.assertIsNone(trtexec.parsed_version("usage: trtexec"))

    @agent_models.needs_runtime
    def test_the_board_tells_the_version_that_it_has(self):
        for version, told in (("8.5", "8.5.2"), ("8.6", "8.6.2"), ("10", "10.3.0"), ("11", "11.4.1")):
            self.has(version)
            self.assertEqual(probe.installed_runners()["tensorrt"], told)
            self.assertEqual(probe.probe(lambda progress: None)["wheels"].get("tensorrt"), None)

    def test_what_cannot_be_used_is_told_with_the_reason(self):
        os.environ["EDGESDK_TRTEXEC"] = str(self.folder / "nowhere")
        self.assertNotIn("tensorrt", probe.installed_runners())
        self.assertEqual(refused(trtexec.version).kind, "missing")
        self.assertIn("nvidia-jetpack", probe.probe(lambda progress: None)["wheels"]["tensorrt"])
        for number, told in (("8205", "8.2.5"), ("7103", "7.1.3"), ("120000", "12.0.0"), ("9100", "9.1.0")):
            self.has(number)
            error = refused(trtexec.version)
            self.assertIn(f"TensorRT {told}, whose options edgesdk does not know", error.fact)
            self.assertNotIn("tensorrt", probe.installed_runners())
            self.assertIn(told, probe.probe(lambda progress: None)["wheels"]["tensorrt"])
        self.has("10", "no banner")
        self.assertIn("names no version", refused(trtexec.version).fact)

    def test_a_python_without_numpy_cannot_use_it(self):
        self.has("10")
        with mock.patch.object(trtexec, "find_spec", return_value=None):
            self.assertIsNone(trtexec.installed())
            self.assertIn("pip install numpy", trtexec.advice())

    @agent_models.needs_runtime
    def test_its_runner_is_refused_where_it_is_not(self):
        os.environ["EDGESDK_TRTEXEC"] = str(self.folder / "nowhere")
        self.assertEqual(refused(runners.runner, "tensorrt").kind, "missing")

    def test_it_is_looked_for_on_the_path_and_where_jetpack_has_it(self):
        os.environ.pop("EDGESDK_TRTEXEC", None)
        there = agent_trtexec.write(self.folder / "usr" / "trtexec")
        with mock.patch.object(trtexec, "PLACES", (str(self.folder / "no"), str(there))):
            with mock.patch.dict(os.environ, {"PATH": str(self.folder)}):
                self.assertEqual(trtexec.find(), str(there))
            with mock.patch.dict(os.environ, {"PATH": str(there.parent)}):
                self.assertEqual(trtexec.find(), str(there))

    def test_one_that_hangs_is_not_waited_for(self):
        path = self.folder / "trtexec"
        path.write_text("#!/bin/sh\nexec sleep 60\n")
        path.chmod(0o755)
        os.environ["EDGESDK_TRTEXEC"] = str(path)
        with mock.patch.object(trtexec, "VERSION_SECONDS", 0.1):
            self.assertIn("did not say its version", refused(trtexec.version).fact)
            self.assertIsNone(trtexec.installed())


class Readers(unittest.TestCase):
    def test_times_are_those_after_the_warm_up(self):
        warm = dict(RUN, startComputeMs=100.0)
        self.assertEqual(trtexec.read_times(json.dumps([warm, RUN]), 200.0), [{"latency": 2.5, "compute": 2.0}])
        self.assertEqual(len(trtexec.read_times(json.dumps([warm, RUN]))), 2)

    def test_a_profile_goes_by_medians_where_it_has_them(self):
        rows = [{"count": 30}, {"name": "a", "timeMs": 60.0, "averageMs": 2.0, "percentage": 100.0}]
        self.assertEqual(trtexec.read_profile(json.dumps(rows)), (30, [{"name": "a", "ms": 2.0}]))
        rows[1]["medianMs"] = 1.5
        self.assertEqual(trtexec.read_profile(json.dumps(rows))[1][0]["ms"], 1.5)

    def test_the_documented_layer_is_read(self):
        (layer,) = trtexec.read_layers(json.dumps({"Layers": [DOCUMENTED], "Bindings": ["a", "b"]}))
        self.assertEqual((layer["operator"], layer["precision"], layer["device"]), ("Convolution", "int8", "GPU"))
        self.assertEqual(layer["nodes"], DOCUMENTED["Name"].split(" + "))

    def test_layers_of_every_version_tell_their_precision(self):
        for tensor, weights, expected in (
            ({"Format/Datatype": "Row major linear FP32"}, None, "f32"),
            ({"Format/Datatype": "Channel major FP16 format where channel % 8 == 0"}, None, "f16"),
            ({"Format/Datatype": "Half"}, None, "f16"),
            ({"Format": "Row major linear format (kLINEAR)", "DataType": "Half"}, None, "f16"),
            ({"Format/Datatype": "Half"}, {"Type": "Int8", "Count": 9}, "int8"),
            ({"Format/Datatype": "N/A due to dynamic shapes"}, None, None),
        ):
            row = {"Name": "a", "LayerType": "kgen", "Outputs": [tensor], **({"Weights": weights} if weights else {})}
            (layer,) = trtexec.read_layers(json.dumps({"Layers": [row]}))
            self.assertEqual(layer["precision"], expected, tensor)
        (bare,) = trtexec.read_layers(json.dumps({"Layers": ["conv1 + relu1"]}))  # built without details
        self.assertEqual((bare["nodes"], bare["precision"]), (["conv1", "relu1"], None))

    def test_fused_layers_are_taken_apart(self):
        for name, nodes in (
            ("/conv1/Conv + /relu/Relu", ["/conv1/Conv", "/relu/Relu"]),
            ("conv1.weight + QuantizeLinear_1 + Conv_2 + PWN(Relu_3)",
             ["conv1.weight", "QuantizeLinear_1", "Conv_2", "Relu_3"]),
            ("PWN(PWN(/act/Sigmoid), /act/Mul)", ["/act/Sigmoid", "/act/Mul"]),
            ("PWN(PWN(a), PWN(b))", ["a", "b"]),
            ("left || right", ["left", "right"]),
            ("{ForeignNode[/a/MatMul.../b/Add]}", ["/a/MatMul", "/b/Add"]),
            ("Reformatting CopyNode for Input Tensor 0 to conv1 + relu1", []),
        ):  # fmt: skip
            self.assertEqual(trtexec.nodes_of(name), nodes)
        row = {"Name": "__myl_ConvAdd_myl0_1", "LayerType": "kgen",
               "Metadata": "[ONNX Layer: /a/Conv]\x1e[ONNX Layer: /b/Add]\x1f[ONNX Layer: /a/Conv]"}  # fmt: skip
        self.assertEqual(trtexec.read_layers(json.dumps({"Layers": [row]}))[0]["nodes"], ["/a/Conv", "/b/Add"])

    def test_outputs_are_read_as_cpp_prints_them(self):
        text = '[ { "name" : "y", "dimensions" : "1x4", "values" : [ 1, -0.5, nan, -inf ] } ]'
        shape, values = trtexec.read_output(text)["y"]
        self.assertEqual((shape, values[:2], values[3]), ([1, 4], [1, -0.5], float("-inf")))
        self.assertNotEqual(values[2], values[2])
        self.assertEqual(trtexec.read_output(text.replace("nan", "-nan"))["y"][0], [1, 4])

    def test_other_formats_are_refused_by_name(self):
        for reader, what, contents in (
            (trtexec.read_times, "times",
             ["{", "{}", "[]", "[1]", '[{"inMs": 1}]', '[{"latencyMs": NaN, "computeMs": 1, "startComputeMs": 0}]',
              json.dumps([dict(RUN, latencyMs=-1)]), json.dumps([dict(RUN, latencyMs="2")]), "[" * 100000]),
            (trtexec.read_profile, "profile", ["[]", '[{"count": "3"}]', '[{"count": 3}, {"name": "a"}]', "null"]),
            (trtexec.read_layers, "layers", ["[]", "{}", '{"Layers": 3}', '{"Layers": [3]}']),
            (trtexec.read_output, "output",
             ["[]", '[{"name": "y"}]', '[{"name": "y", "dimensions": "1x4", "values": [1]}]',
              '[{"name": "y", "dimensions": "1x-4", "values": []}]',
              '[{"name": "y", "dimensions": "1", "values": ["a"]}]']),
        ):  # fmt: skip
            for content in contents:
                error = refused(reader, content)
                self.assertEqual(error.kind, "runtime")
                self.assertIn(f"wrote its {what} in a format that edgesdk does not know", error.fact)


class Memory(Board):
    def test_the_workspace_is_bound_by_what_is_left(self):
        gigabyte = 1 << 30
        self.assertEqual(trtexec.workspace_bytes(10 << 20, None), gigabyte)
        self.assertEqual(trtexec.workspace_bytes(10 << 20, trtexec.Memory(16 * gigabyte, 0)), gigabyte)
        small = trtexec.workspace_bytes(10 << 20, trtexec.Memory(gigabyte, 0))
        self.assertTrue(16 << 20 <= small < gigabyte // 4)
        self.assertLess(trtexec.workspace_bytes(60 << 20, trtexec.Memory(gigabyte, 0)), small)

    def test_an_engine_that_does_not_fit_is_refused_before_it_is_built(self):
        for model, left in ((10 << 20, 400 << 20), (500 << 20, 2 << 30)):
            error = refused(trtexec.workspace_bytes, model, trtexec.Memory(left, 4 << 30))
            self.assertEqual(error.kind, "failed")
            self.assertRegex(error.fact, r"takes about \d+ MB, and \d+ MB are available: the board would swap")

    def test_the_kernel_says_what_is_left(self):
        (self.folder / "proc").mkdir()
        (self.folder / "proc" / "meminfo").write_text("MemTotal: 8000 kB\nMemAvailable:  4000 kB\nSwapFree: 100 kB\n")
        self.assertEqual(trtexec.memory(str(self.folder)), (4000 << 10, 100 << 10))
        self.assertIsNone(trtexec.memory(str(self.folder / "proc")))

    def test_it_is_ended_before_the_board_swaps(self):
        self.has("10", "hangs")
        full = trtexec.Memory(4 << 30, 1 << 30)
        for after in (trtexec.Memory(10 << 20, 1 << 30), trtexec.Memory(200 << 20, 900 << 20)):
            with mock.patch.object(trtexec, "memory", side_effect=[full, full, after]):
                error = refused(trtexec.run, ["--onnx=a"], 60.0, "while it built the engine")
            self.assertIn("was ended while it built the engine, before the board swaps", error.fact)


@agent_models.needs_runtime
class Faults(Board):
    def test_each_is_named(self):
        model = self.model(agent_models.conv())
        for fault, kind, said in (
            ("exits", "runtime", "trtexec failed while it built the engine \\(exit code 3\\)"),
            ("signal", "runtime", "it was ended by signal 9"),
            ("no memory", "runtime", "due to insufficient workspace"),
            ("no engine", "runtime", "says that it built the engine, and wrote none"),
        ):
            self.has("10", fault)
            error = refused(runners.runner("tensorrt").load, model, 1)
            self.assertEqual(error.kind, kind)
            self.assertRegex(error.fact, said)
        self.assertEqual(os.listdir(self.folder / "engines"), [])

    def test_one_that_hangs_is_ended(self):
        self.has("10", "hangs")
        begin = time.monotonic()
        with mock.patch.object(trtexec, "BUILD_SECONDS", 0.3):
            error = refused(runners.runner("tensorrt").load, self.model(agent_models.conv()), 1)
        self.assertEqual(
            (error.kind, error.fact), ("failed", "trtexec took over 0 s while it built the engine, and was ended")
        )
        self.assertLess(time.monotonic() - begin, 30)

    def test_it_ends_with_the_agent_whose_host_is_gone(self):
        self.has("10", "hangs")
        command = [sys.executable, "-m", "edgesdk_targets.agent"]
        asked = {"path": self.model(agent_models.conv()), "runtime": "tensorrt", "seconds": 0.0}
        pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
        with subprocess.Popen(command, env=fresh.environment(), stdin=pipe, stdout=pipe, stderr=nothing) as agent:
            assert agent.stdin is not None and agent.stdout is not None
            agent.stdin.write(protocol.request(0, "kernels", asked))
            agent.stdin.flush()
            self.assertTrue(self.wait_for(lambda: self.calls() and self.running()))
            agent.stdout.close()  # as a host does that dies
            self.assertTrue(self.wait_for(lambda: not self.running()))
            agent.stdin.close()

    def wait_for(self, what) -> bool:
        end = time.monotonic() + 60
        while not what() and time.monotonic() < end:
            time.sleep(0.05)
        return bool(what())

    def running(self) -> list:
        """The processes of the stand-in that are there."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                if str(self.folder / "bin-10-hangs" / "trtexec").encode() in path.read_bytes():
                    found.append(path.parent.name)
        return found

    def test_what_it_writes_in_another_format_is_named(self):
        model = self.model(agent_models.conv())
        self.has("10")
        runners.runner("tensorrt").load(model, 1)  # one engine for all
        for fault, said in (
            ("other times", "wrote its times in a format that edgesdk does not know"),
            ("no times", "ended well, and wrote no times"),
            ("few times", "wrote the times of 3 runs where 20 were asked for"),
            ("no JSON", "wrote its times in a format"),
        ):
            self.has("10", fault)
            bound = runners.runner("tensorrt").load(model, 1).bind()
            self.assertIn(said, refused(bound.times, 20).fact)
        self.has("10", "other layers")
        error = refused(measure.kernels, lambda progress: None, path=model, runtime="tensorrt", seconds=0.0)
        self.assertIn("wrote its layers in a format", error.fact)
        self.has("10", "no JSON")
        session = runners.runner("tensorrt").load(model, 1)
        self.assertIn("its output in a format", refused(session.run_once, session_sample(session)).fact)

    def test_options_of_another_version_are_told_as_such(self):
        self.has("8.5")
        with mock.patch.object(trtexec, "version", return_value=trtexec.Version(10, 3, 0)):
            error = refused(runners.runner("tensorrt").load, self.model(agent_models.conv()), 1)
        self.assertIn("Unknown option: --skipInference", error.fact)
        self.assertIn("takes other options than its version does", error.remedy)

    def test_a_shape_that_the_engine_was_not_built_for(self):
        import numpy

        self.has("10")
        for batch in (1, "n"):
            session = runners.runner("tensorrt").load(self.model(agent_models.conv(batch=batch)), 1)
            error = refused(session.bind, {"x": numpy.zeros((2, 8, 8, 8), "float32")})
            self.assertEqual(error.fact, "the input x has shape [2, 8, 8, 8], the engine was built for [1, 8, 8, 8]")

    def test_files_that_are_no_model(self):
        self.has("10")
        runner = runners.runner("tensorrt")
        whole = agent_models.conv()
        for content, kind in ((b"", "usage"), (b"<net name='a'/>", "usage"), (whole[: len(whole) // 2], "usage")):
            self.assertEqual(refused(runner.load, self.model(content), 1).kind, kind)
        self.assertEqual(refused(runner.load, str(self.folder / "gone.onnx"), 1).kind, "missing")
        self.assertEqual(self.calls(), [])


def session_sample(session):
    return runners.runner("tensorrt").sample(session.inputs)


def quantized() -> bytes:
    """A convolution in integers and a ReLU, of ``x``, named as an exporter names them."""
    import numpy
    from onnx import TensorProto, helper, numpy_helper

    weight = numpy.random.RandomState(0).randint(-127, 128, (8, 8, 3, 3)).astype("int8")
    constants = {
        "w": weight, "s": numpy.float32(0.05), "z": numpy.int8(0), "ws": numpy.full(8, 0.01, "float32"),
        "wz": numpy.zeros(8, "int8"),
    }  # fmt: skip
    shape = [1, 8, 8, 8]
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"], name="q"),
            helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"], name="dq"),
            helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], name="wdq", axis=0),
            helper.make_node("Conv", ["xd", "wd"], ["c"], name="/conv1/Conv", pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c"], ["y"], name="/relu/Relu"),
        ],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(numpy.asarray(array), name) for name, array in constants.items()],
    )
    return agent_models.as_bytes(graph)


@agent_models.needs_runtime
class Engines(Board):
    def test_every_version_is_asked_in_its_own_words(self):
        wanted = {
            "8.5": ({"--buildOnly", "--fp16", "--int8"}, {"--skipInference"}),
            "8.6": ({"--skipInference", "--fp16", "--int8"}, {"--buildOnly"}),
            "10": ({"--skipInference", "--fp16", "--int8"}, {"--buildOnly"}),
            "11": ({"--skipInference"}, {"--fp16", "--int8", "--stronglyTyped"}),
        }
        path = self.model(quantized())
        for version, (there, absent) in wanted.items():
            self.has(version)
            self.log.write_text("")
            runners.runner("tensorrt").load(path, 1)
            (call,) = self.calls()
            names = {option.partition("=")[0] for option in call}
            self.assertTrue(there <= names and not absent & names, (version, call))
            self.assertTrue(any(option.startswith("--memPoolSize=workspace:") for option in call))
            self.assertTrue(any(option.startswith("--timingCacheFile=") for option in call))
        kept = sorted(os.listdir(self.folder / "cache" / "edgesdk"))
        self.assertEqual(len([name for name in kept if name.endswith(".timing")]), 4)

    def test_a_float_file_is_built_without_integers(self):
        self.has("8.6")
        runners.runner("tensorrt").load(self.model(agent_models.conv()), 1)
        self.assertNotIn("--int8", self.calls()[0])

    def test_an_engine_is_built_once(self):
        self.has("10")
        path = self.model(agent_models.conv())
        for _ in range(2):
            runners.runner("tensorrt").load(path, 1)
        self.assertEqual(sum("--skipInference" in call for call in self.calls()), 1)
        self.has("8.6")  # another version's engine is another
        runners.runner("tensorrt").load(path, 1)
        self.assertEqual(sum("--skipInference" in call for call in self.calls()), 2)

    def test_engines_that_were_used_longest_ago_make_room(self):
        self.has("10")
        runner = runners.runner("tensorrt")
        with mock.patch.object(runner, "ENGINES_KEPT", 2):
            used = runner.load(self.model(agent_models.conv(channels=1)), 1)
            first = runner.load(self.model(agent_models.conv(channels=2)), 1).engine
            second = runner.load(self.model(agent_models.conv(channels=3)), 1).engine
            for age, path in enumerate((used.engine, second, first)):
                os.utime(path, (1000 + age, 1000 + age))
            third = runner.load(self.model(agent_models.conv(channels=4)), 1).engine
        kept = {str(self.folder / "engines" / name) for name in os.listdir(self.folder / "engines")}
        self.assertEqual(kept, {used.engine, first, third})

    def test_eleven_takes_the_file_that_is_typed(self):
        self.model(agent_models.conv(channels=4), "model-fp16.onnx")
        path = self.model(agent_models.conv())
        for version, channels in (("10", 8), ("11", 4)):
            self.has(version)
            session = runners.runner("tensorrt").load(path, 1)
            self.assertEqual(session.inputs[0]["shape"][1], channels)
            self.assertEqual(session.precision, "f16" if version == "10" else None)

    def test_the_engine_s_own_answers(self):
        import numpy

        content = agent_models.two_outputs()
        for version in VERSIONS:
            self.has(version)
            session = runners.runner("tensorrt").load(content, 1)
            values = {"a": numpy.arange(4, dtype="float32")[None], "b": numpy.array([[-1, 1, -1, 1]], "float32")}
            outputs = session.run_once(values)
            self.assertEqual(list(outputs), ["sum", "positive"])
            numpy.testing.assert_array_equal(outputs["sum"], [[-1, 2, 1, 4]])
            numpy.testing.assert_array_equal(outputs["positive"], [[0, 1, 0, 1]])
            self.assertEqual(refused(session.run_once, {"a": values["a"]}).kind, "usage")

    def test_answers_come_from_it_where_it_is_there(self):
        import numpy

        self.has("10")
        sample = str(self.folder / "sample.npz")
        arrays = [numpy.zeros((1, 8, 8, 8), "float32")]
        numpy.savez(sample, **{str(place): array for place, array in enumerate(arrays)})  # type: ignore[arg-type]
        path = self.model(agent_models.conv())
        told = answers.answers(lambda progress: None, path=path, inputs=sample, runtime="tensorrt")
        self.assertEqual((told["runtime"], told["version"]), ("tensorrt", "10.3.0"))
        os.environ["EDGESDK_TRTEXEC"] = "/nowhere"
        told = answers.answers(lambda progress: None, path=path, inputs=sample, runtime="tensorrt")
        self.assertEqual(told["runtime"], "onnxruntime")


@agent_models.needs_runtime
class Measuring(Board):
    def test_two_files_are_timed_in_turns(self):
        self.has("8.5")
        artifacts = [
            {"name": "float", "path": self.model(agent_models.conv(), "float.onnx")},
            {"name": "integer", "path": self.model(quantized(), "integer.onnx")},
        ]
        asked = {"minimum_count": 20, "minimum_seconds": 0.0, "warmup_seconds": 0.0, "blocks": 2}
        run = measure.benchmark(lambda progress: None, artifacts=artifacts, runtime="tensorrt", **asked)
        for timing in run["artifacts"]:
            self.assertEqual(timing["runtime"]["providers"], ["GPU"])
            self.assertEqual(timing["statistics"]["count"], len(timing["samples_ms"]))
            self.assertGreaterEqual(len(timing["samples_ms"]), 20)
            self.assertEqual(len(timing["rounds"]), 2)
            self.assertGreater(timing["statistics"]["min"], 0)
        self.assertIsNone(run["references"])
        timed = [call[0] for call in self.calls() if any(o.startswith("--exportTimes") for o in call)]
        a, b = timed[0], timed[1]  # both are warmed up, then A B, B A
        self.assertEqual(timed, [a, b, a, b, b, a])

    def test_a_power_mode_that_changed_meanwhile_makes_the_run_invalid(self):
        self.has("10")
        artifacts = [{"name": "a", "path": self.model(agent_models.conv())}]
        asked = {"minimum_count": 5, "minimum_seconds": 0.0, "warmup_seconds": 0.0, "blocks": 1}
        sides = [dict(probe.conditions(), power_mode=mode) for mode in ("15W", "MAXN")]
        with mock.patch.object(probe, "conditions", side_effect=sides):
            run = measure.benchmark(lambda progress: None, artifacts=artifacts, runtime="tensorrt", **asked)
        self.assertFalse(run["valid"])
        self.assertIn("the power mode changed from 15W to MAXN during the run", run["reason"])

    def test_layers_are_told_with_what_they_compute_in(self):
        for version in VERSIONS:
            self.has(version)
            path = self.model(quantized())
            with mock.patch.object(runners.runner("tensorrt"), "PROFILES", 1 + (version == "10")):
                told = measure.kernels(lambda progress: None, path=path, runtime="tensorrt", seconds=0.0)
            reformat, conv = told["kernels"]
            self.assertEqual((reformat["layers"], conv["layers"]), ([], ["/conv1/Conv", "/relu/Relu"]))
            self.assertEqual((conv["precision"], conv["operator"], conv["provider"]), ("int8", "Convolution", "GPU"))
            self.assertAlmostEqual(reformat["share"] + conv["share"], 1.0)
            self.assertTrue(conv["low_ms"] <= conv["profiled_ms"] <= conv["high_ms"])
            self.assertTrue(told["runs"] >= 50 and told["plain_run_ms"] > 0)
            self.assertIsNone(told["profiled_run_ms"])

    def test_what_falls_back_from_the_accelerator_is_told(self):
        self.has("10")
        path = self.model(agent_models.two_outputs())
        runners.runner("tensorrt")
        with mock.patch(MODULE + ".PROFILES", 1):
            kernels = measure.kernels(lambda progress: None, path=path, runtime="tensorrt+dla0")["kernels"]
        self.assertEqual(
            {k["provider"]: k["layers"] for k in kernels if k["layers"]}, {"DLA": ["relu"], "GPU": ["add"]}
        )
        build = self.calls()[0]
        self.assertTrue({"--useDLACore=0", "--allowGPUFallback"} <= set(build))
        self.assertTrue(all("--useDLACore=0" in call for call in self.calls()))
        for option in ("dla", "gpu0", "dla12"):
            self.assertEqual(refused(runners.runner, "tensorrt+" + option).kind, "usage")
        self.assertEqual(refused(runners.runner, "onnxruntime+dla0").kind, "usage")

    def test_versions_without_a_way_to_the_accelerator_say_so(self):
        for number, there in (("110000", False), ("110300", False), ("11", True)):
            self.has(number)
            load = runners.runner("tensorrt+dla0").load
            if there:
                load(self.model(agent_models.conv()), 1)
            else:
                self.assertIn("no way to the accelerator", refused(load, self.model(agent_models.conv()), 1).fact)

    def test_load_and_memory_are_those_of_the_engine(self):
        self.has("10")
        path = self.model(agent_models.conv())
        told = memory.load_here(lambda progress: None, path=path, runtime="tensorrt", threads=1)
        self.assertEqual(told["load_ms"], 12.3)
        own = {"inputs": None, "baseline": None}
        told = memory.memory_here(lambda progress: None, path=path, runtime="tensorrt", threads=1, **own)
        self.assertEqual((told["peak_added"], told["method"]), (5 << 20, "TensorRT's own account"))
        self.assertEqual((told["runtime_baseline"], told["input_bytes"]), (None, 4 * 512))

    def test_fresh_processes_take_the_engine_that_is_there(self):
        self.has("10")
        path = self.model(agent_models.conv())
        runners.runner("tensorrt").load(path, 1)
        told = fresh.ask(fresh.LOAD, {"path": path, "runtime": "tensorrt", "threads": 1})
        self.assertEqual(told["load_ms"], 12.3)
        self.assertEqual(sum("--skipInference" in call for call in self.calls()), 1)


class OnnxFiles(unittest.TestCase):
    @agent_models.needs_runtime
    def test_inputs_outputs_and_operators_are_read(self):
        told = onnx_file.describe(agent_models.two_outputs())
        self.assertEqual([tensor.name for tensor in told.inputs], ["b", "a"])
        self.assertEqual(told.outputs[0], ("sum", [1, 4], "float32"))
        self.assertEqual(told.operators, ["Relu", "Identity", "Add"])
        told = onnx_file.describe(agent_models.conv(batch="n"))
        self.assertEqual([(t.name, t.shape) for t in told.inputs], [("x", [None, 8, 8, 8])])  # w is a constant
        self.assertEqual([t.dtype for t in onnx_file.describe(agent_models.gather()).inputs], ["float16", "int64"])

    @agent_models.needs_runtime
    def test_damaged_ones_are_refused_or_read(self):
        content = bytearray(agent_models.two_outputs())
        for place in range(len(content)):
            for value in (0, 0x7F, 0xFF):
                changed = bytes(content[:place] + bytes([value]) + content[place + 1 :])
                for read in (onnx_file.describe, onnx_file.list_tensors):
                    with contextlib.suppress(AgentError):
                        read(changed)

    def test_what_is_no_message_is_refused(self):
        for content in (b"", b"\x08\x08", b"\xff" * 20, b"\x3a\xff\x01", b"\x38\x01", struct.pack("<q", 7)):
            self.assertEqual(refused(onnx_file.describe, content).kind, "usage")
            self.assertEqual(refused(onnx_file.list_tensors, content).kind, "usage")


if __name__ == "__main__":
    unittest.main()
