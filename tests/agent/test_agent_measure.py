from __future__ import annotations

import base64
import os
import tempfile
import unittest
from typing import Any
from unittest import mock

import agent_models

from edgesdk_targets.agent import clock, files, measure, memory, operators, runners
from edgesdk_targets.agent.protocol import AgentError


class OnDisk(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        self.reports = []

    def path(self, name: str, content: bytes) -> str:
        return agent_models.write(os.path.join(self.folder, name), content)

    def refused(self, verb, **arguments) -> AgentError:
        with self.assertRaises(AgentError) as caught:
            verb(self.reports.append, **arguments)
        return caught.exception


class Refusals(OnDisk):
    def test_a_file_that_is_not_there(self):
        gone = os.path.join(self.folder, "gone.onnx")
        for verb, arguments in (
            (measure.benchmark, {"artifacts": [{"name": "a", "path": gone}]}),
            (measure.kernels, {"path": gone}),
            (memory.load, {"path": gone}),
            (memory.memory, {"path": gone}),
        ):
            self.assertEqual(self.refused(verb, **arguments).kind, "missing")

    def test_arguments_out_of_range(self):
        artifact = {"name": "a", "path": self.path("a.onnx", b"")}
        for arguments in (
            {"artifacts": []},
            {"artifacts": [artifact, artifact]},
            {"artifacts": [{"path": artifact["path"]}]},
            {"artifacts": [artifact], "threads": 0},
            {"artifacts": [artifact], "minimum_count": 0},
            {"artifacts": [artifact], "most_seconds": -1.0},
            {"artifacts": [artifact], "runtime": "abacus"},
        ):
            self.assertEqual(self.refused(measure.benchmark, **arguments).kind, "usage")
        self.assertEqual(self.refused(operators.operators, models=[{"path": "x"}]).kind, "usage")
        self.assertEqual(self.refused(operators.operators, models=[], rounds=0).kind, "usage")

    def test_an_emulated_device_measures_nothing(self):
        os.environ["EDGESDK_EMULATED"] = "1"
        self.addCleanup(os.environ.pop, "EDGESDK_EMULATED")
        path = self.path("a.onnx", b"")
        same = {"path": path, "runtime": "onnxruntime", "threads": 1}
        for verb, arguments in (
            (measure.benchmark, {"artifacts": [{"name": "a", "path": path}]}),
            (measure.kernels, {"path": path}),
            (operators.operators, {"models": [{"key": "a", "path": path}]}),
            (memory.load, {"path": path}),
            (memory.memory, {"path": path}),
            (memory.load_here, same),
            (memory.memory_here, dict(same, inputs=None, baseline=None)),
        ):
            error = self.refused(verb, **arguments)
            self.assertEqual(error.kind, "emulated")
            self.assertEqual(error.fact, "this device is emulated: its times and memory mean nothing")


class Modes(unittest.TestCase):
    def test_sustained_follows_as_long_a_warm_up(self):
        self.assertEqual(measure.MODES["sustained"], (1024, 300.0, 300.0))
        for count, seconds, warmup in measure.MODES.values():
            self.assertGreaterEqual(count, clock.least_count(90))
            self.assertGreater(seconds, warmup - 1)

    def test_the_environment_chooses_what_is_usual(self):
        for given, mode in (("", "rapid"), ("brief", "brief"), ("full", "full")):
            with mock.patch.dict(os.environ, EDGESDK_MODE=given):
                self.assertEqual(measure.usual_mode(), mode)
        with mock.patch.dict(os.environ, EDGESDK_MODE="fast"), self.assertRaises(AgentError) as caught:
            measure.usual_mode()
        self.assertIn("EDGESDK_MODE is 'fast'", str(caught.exception))

    def test_a_percentile_takes_as_many_samples_as_statistics_ask_for(self):
        for percent in clock.PERCENTILES:
            count = clock.least_count(percent)
            self.assertIsNotNone(clock.statistics(range(count))[f"p{percent}"])
            self.assertIsNone(clock.statistics(range(count - 1))[f"p{percent}"])


@agent_models.needs_runtime
class Benchmark(OnDisk):
    def benchmark(self, *artifacts, **arguments) -> dict:
        settings = {"minimum_count": 20, "minimum_seconds": 0.05, "warmup_seconds": 0.01, **arguments}
        return measure.benchmark(self.reports.append, artifacts=list(artifacts), **settings)

    def test_both_limits_are_kept_for_every_artifact(self):
        small = {"name": "small", "path": self.path("small.onnx", agent_models.conv())}
        large = {"name": "large", "path": self.path("large.onnx", agent_models.conv(32, 32))}
        result = self.benchmark(small, large, minimum_count=300, blocks=4)
        self.assertEqual([item["name"] for item in result["artifacts"]], ["small", "large"])
        for item in result["artifacts"]:
            self.assertGreaterEqual(len(item["samples_ms"]), 300)
            self.assertGreaterEqual(item["timed_seconds"], 0.05)
            self.assertGreaterEqual(item["warmup"]["count"], measure.WARMUP_RUNS)
            self.assertEqual(item["statistics"]["count"], len(item["samples_ms"]))
            self.assertEqual(item["statistics"]["min"], min(item["samples_ms"]))
            self.assertGreater(len(item["block_medians_ms"]), 1)
            self.assertGreater(item["load_ms"], 0)
        self.assertEqual(result["artifacts"][0]["digest"], files.digest(small["path"]))
        self.assertEqual(result["runtime"]["threads"], 1)
        self.assertEqual(result["runtime"]["providers"], ["CPUExecutionProvider"])
        self.assertEqual(set(result["conditions"]), {"before", "after", "during"})
        during = result["conditions"]["during"]
        for artifact in result["artifacts"]:
            counts = [moment["samples"][artifact["name"]] for moment in during]
            self.assertEqual((counts, counts[-1]), (sorted(counts), len(artifact["samples_ms"])))
        self.assertTrue(all({"samples", "celsius", "mhz"} == set(moment) for moment in during))
        self.assertEqual(result["valid"], result["reason"] is None)
        self.assertIn("timing", [report["state"] for report in self.reports])

    def test_a_run_that_is_cut_short_has_a_median_of_each_from_several_rounds(self):
        small = {"name": "small", "path": self.path("small.onnx", agent_models.conv())}
        large = {"name": "large", "path": self.path("large.onnx", agent_models.conv(32, 32))}
        result = self.benchmark(small, large, minimum_count=5000, minimum_seconds=60.0, most_seconds=0.0)
        for item in result["artifacts"]:
            self.assertTrue(clock.least_count(50) <= len(item["samples_ms"]) < 5000)
            self.assertIsNotNone(item["statistics"]["p50"])
            self.assertGreaterEqual(len(item["block_medians_ms"]), 2)

    def test_a_fast_model_is_sampled_now_and_then(self):
        before = measure.SAMPLES_KEPT
        self.addCleanup(setattr, measure, "SAMPLES_KEPT", before)
        measure.SAMPLES_KEPT = 50
        result = self.benchmark({"name": "a", "path": self.path("a.onnx", agent_models.conv())}, minimum_seconds=0.2)
        (item,) = result["artifacts"]
        self.assertGreater(item["sampled_every"], 1)
        self.assertGreaterEqual(item["timed_seconds"], 0.2)

    def test_given_inputs_are_used_and_checked(self):
        import numpy

        path = self.path("a.onnx", agent_models.conv(batch="batch"))
        inputs = os.path.join(self.folder, "inputs.npz")
        numpy.savez(inputs, x=numpy.ones((1, 8, 8, 8), "float32"))
        (item,) = self.benchmark({"name": "a", "path": path, "inputs": inputs})["artifacts"]
        expected = {"name": "x", "shape": [1, 8, 8, 8], "dtype": "float32", "source": "given"}
        self.assertEqual(item["inputs"], [expected])
        for name, value, word in (("z", numpy.ones(1), "lack x"), ("x", numpy.ones((1, 8, 8, 8)), "float64")):
            arrays: dict[str, Any] = {name: value}
            numpy.savez(inputs, **arrays)
            error = self.refused(measure.benchmark, artifacts=[{"name": "a", "path": path, "inputs": inputs}])
            self.assertEqual(error.kind, "usage")
            self.assertIn(word, error.fact)

    def test_a_model_that_the_runtime_refuses(self):
        error = self.refused(measure.benchmark, artifacts=[{"name": "a", "path": self.path("a.onnx", b"no model")}])
        self.assertEqual(error.kind, "runtime")

    def test_kernels_that_ran(self):
        result = measure.kernels(self.reports.append, path=self.path("a.onnx", agent_models.conv(16, 16)))
        self.assertIn("Conv", " ".join(kernel["operator"] for kernel in result["kernels"]))
        self.assertAlmostEqual(sum(kernel["share"] for kernel in result["kernels"]), 1)
        self.assertEqual({kernel["provider"] for kernel in result["kernels"]}, {"CPUExecutionProvider"})
        self.assertTrue(
            all(kernel["low_ms"] <= kernel["profiled_ms"] <= kernel["high_ms"] for kernel in result["kernels"])
        )

    def test_what_a_profiler_costs(self):
        path = self.path("a.onnx", agent_models.conv(16, 16))
        for seconds, runs in ((10, measure.PROFILED_RUNS), (0, measure.PROFILED_LEAST)):  # as many as there is time for
            result = measure.kernels(self.reports.append, path=path, seconds=seconds)
            self.assertEqual(result["runs"], runs)
            self.assertGreater(min(result["profiled_run_ms"], result["plain_run_ms"]), 0)


@agent_models.needs_runtime
class Runner(OnDisk):
    def test_a_bound_run_computes_what_a_plain_run_does(self):
        import numpy

        runner = runners.runner("onnxruntime")
        session = runner.load(agent_models.conv(), 1)
        values = runner.sample(session.inputs)
        run = session.bind(values)
        run()
        binding = run.args[0]
        (expected,) = session.session.run(None, values)
        numpy.testing.assert_array_equal(binding.copy_outputs_to_cpu()[0], expected)

    def test_the_bound_inputs_outlive_whoever_made_them(self):
        import gc

        import numpy

        runner = runners.runner("onnxruntime")
        session = runner.load(agent_models.conv(), 1)
        (expected,) = session.session.run(None, runner.sample(session.inputs))
        run = session.bind()
        gc.collect()
        junk = [numpy.full((1, 8, 8, 8), 7, "float32") for _ in range(100)]
        run()
        numpy.testing.assert_array_equal(run.args[0].copy_outputs_to_cpu()[0], expected)
        self.assertEqual(len(junk), 100)

    def test_samples_have_the_shape_and_type_of_the_inputs_and_the_runtime_s_alignment(self):
        runner = runners.runner("onnxruntime")
        session = runner.load(agent_models.gather(), 1)
        values = runner.sample(session.inputs)
        self.assertEqual((values["x"].shape, str(values["x"].dtype)), ((4, 3), "float16"))
        self.assertEqual((values["i"].tolist(), str(values["i"].dtype)), ([0, 0], "int64"))
        self.assertGreater(values["x"].std(), 0)
        for value in values.values():
            self.assertEqual(value.ctypes.data % 64, 0)
        session.bind(values)()

    def test_shares_leave_out_each_kernel_s_first_run(self):
        runner = runners.runner("onnxruntime")

        def event(name, duration):
            detail = {"op_name": "Conv", "provider": "CPU", "node_index": "0"}
            return {"cat": "Node", "name": name, "dur": duration, "args": detail}

        events = [event("a_kernel_time", 900), event("b_kernel_time", 5), {"cat": "Session", "name": "run", "dur": 9}]
        events += [event("a_kernel_time", 10), event("a_fence_before", 50), event("b_kernel_time", 30)]
        shares = [(kernel["name"], kernel["share"]) for kernel in runner.shares(events)]
        self.assertEqual(shares, [("a", 0.25), ("b", 0.75)])


@agent_models.needs_runtime
class Operators(OnDisk):
    def test_every_model_has_a_time_and_every_batch_is_reported(self):
        models = [{"key": f"path {n}", "path": self.path(f"{n}.onnx", agent_models.conv(8 * n))} for n in (1, 2, 3)]
        models.append({"key": "bytes", "model": base64.b64encode(agent_models.conv()).decode()})
        result = operators.operators(self.reports.append, models=models, batch=3, rounds=3)
        self.assertEqual([item["key"] for item in result["results"]], [model["key"] for model in models])
        for item in result["results"]:
            self.assertGreater(item["ms"], 0)
            self.assertGreater(item["uncertainty"], 0)
            self.assertGreaterEqual(item["runs"], 3 * operators.LEAST_RUNS)
        self.assertIsNone(result["references"])
        self.assertEqual([(report["done"], report["of"]) for report in self.reports], [(3, 4), (4, 4)])
        self.assertEqual([item for report in self.reports for item in report["results"]], result["results"])

    def test_a_model_that_fails_does_not_stop_the_others(self):
        good = {"key": "good", "path": self.path("good.onnx", agent_models.conv())}
        bad = [{"key": "empty"}, {"key": "junk", "model": "AAAA"}, {"key": "gone", "path": self.folder + "/gone.onnx"}]
        result = operators.operators(self.reports.append, models=[*bad, good], rounds=1)
        self.assertEqual(["error" in item for item in result["results"]], [True, True, True, False])


@agent_models.needs_runtime
class FreshProcesses(OnDisk):
    def test_memory_grows_with_the_weights(self):
        tiny = self.path("tiny.onnx", agent_models.conv())
        weights = 512 * 512 * 9 * 4
        large = self.path("large.onnx", agent_models.conv(512, 8))
        result = memory.memory(self.reports.append, path=large, baseline=tiny)
        self.assertEqual(len(result["samples"]), 3)
        self.assertGreaterEqual(result["peak_added"], weights)
        self.assertGreaterEqual(result["resident_added"], weights)
        self.assertGreater(result["runtime_baseline"], 0)
        self.assertEqual(result["input_bytes"], 512 * 8 * 8 * 4)
        self.assertEqual(result["method"], "clear_refs" if memory.reset_peak() else "hwm_difference")

    def test_a_cold_load_is_the_median_of_three(self):
        result = memory.load(self.reports.append, path=self.path("a.onnx", agent_models.conv()))
        loads = sorted(sample["load_ms"] for sample in result["samples"])
        self.assertEqual((len(loads), result["load_ms"]), (3, loads[1]))
        self.assertGreater(result["import_ms"], 0)
        self.assertGreater(result["first_run_ms"], 0)

    def test_an_error_of_the_fresh_process_comes_through(self):
        error = self.refused(memory.load, path=self.path("a.onnx", b"no model"))
        self.assertEqual(error.kind, "runtime")


class MemoryReaders(OnDisk):
    def test_the_peak_is_not_reset_where_that_is_not_allowed(self):
        self.assertFalse(memory.reset_peak(os.path.join(self.folder, "no", "clear_refs")))

    def test_freed_memory_is_given_back_before_a_model_is_counted(self):
        pieces = [bytes(2000) for _ in range(20_000)]
        kept, whole = pieces[::100], memory.status()["VmRSS"] or 0
        del pieces
        if not memory.trim():
            self.skipTest("this C library keeps what was freed")
        self.assertLess(memory.status()["VmRSS"] or 0, whole - 30 * 1024 * 1024)
        self.assertEqual(len(kept), 200)

    def test_figures_that_the_kernel_does_not_give_are_none(self):
        path = self.path("status", b"Name:\tpython\nVmRSS:\t    1936 kB\n")
        self.assertEqual(memory.status(path), {"VmRSS": 1936 * 1024, "VmHWM": None})
        self.assertEqual(memory.status(path + ".gone"), {"VmRSS": None, "VmHWM": None})

    def test_a_peak_that_the_kernel_forgets_counts(self):
        seen = [{"VmRSS": 5, "VmHWM": 9}, {"VmRSS": 4, "VmHWM": 6}]
        self.assertEqual((memory.highest(seen), memory.highest(seen[::-1])), (9, 9))
        self.assertIsNone(memory.highest([*seen, {"VmRSS": 4, "VmHWM": None}]))

    def test_figures_are_combined_by_their_median(self):
        samples = [{"method": "clear_refs", "peak": peak, "base": base} for peak, base in ((3, 1), (9, None), (5, 1))]
        self.assertEqual(memory.combine(samples), {"method": "clear_refs", "peak": 5, "base": None})


if __name__ == "__main__":
    unittest.main()
