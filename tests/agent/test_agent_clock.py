from __future__ import annotations

import gc
import random
import statistics
import unittest

from edgesdk_targets.agent import clock


class Statistics(unittest.TestCase):
    def near(self, actual: float | None, expected: float, name: str) -> None:
        assert actual is not None, name
        self.assertAlmostEqual(actual, expected, msg=name)

    def test_of_known_numbers(self):
        samples = [float(value) for value in range(1, 1002)]
        random.Random(0).shuffle(samples)
        figures = clock.statistics(samples)
        expected = {"p50": 501, "p90": 901, "p95": 951, "p99": 991, "min": 1, "max": 1001, "mean": 501, "count": 1001}
        for name, value in expected.items():
            self.near(figures[name], value, name)
        self.near(figures["std"], statistics.stdev(samples), "std")

    def test_percentiles_agree_with_the_standard_library(self):
        generator = random.Random(1)
        samples = [generator.lognormvariate(0, 1) for _ in range(777)]
        cuts = statistics.quantiles(samples, n=100, method="inclusive")
        figures = clock.statistics(samples)
        for percent in clock.PERCENTILES:
            self.near(figures[f"p{percent}"], cuts[percent - 1], f"p{percent}")

    def test_a_percentile_with_fewer_than_five_samples_beyond_it_is_refused(self):
        for percent, least in ((50, 10), (90, 50), (95, 100), (99, 500)):
            self.assertIsNotNone(clock.statistics([1.0] * least)[f"p{percent}"], percent)
            self.assertIsNone(clock.statistics([1.0] * (least - 1))[f"p{percent}"], percent)

    def test_of_one_sample_and_of_none(self):
        single: dict[str, float | None] = dict.fromkeys(("p50", "p90", "p95", "p99"))
        single.update(min=2.0, max=2.0, mean=2.0, std=None, count=1)
        self.assertEqual(clock.statistics([2.0]), single)
        with self.assertRaises(ValueError):
            clock.statistics([])


class Timing(unittest.TestCase):
    def setUp(self):
        self.calls = 0

    def run_once(self):
        self.calls += 1
        self.collects = gc.isenabled()

    def test_every_run_is_a_sample(self):
        samples = []
        seconds = clock.time_runs(self.run_once, samples, 20)
        self.assertEqual((self.calls, len(samples)), (20, 20))
        self.assertGreaterEqual(seconds * 1e9, sum(samples))

    def test_with_a_stride_every_kth_run_is_a_sample(self):
        samples = []
        clock.time_runs(self.run_once, samples, 5, stride=4)
        self.assertEqual((self.calls, len(samples)), (20, 5))

    def test_run_for_keeps_the_least_count_and_the_least_duration(self):
        self.assertEqual(len(clock.run_for(self.run_once, 0, 3)), 3)
        self.assertGreater(len(clock.run_for(self.run_once, 0.05, 1)), 1)

    def test_garbage_is_not_collected_meanwhile_and_is_afterwards(self):
        with clock.no_collection():
            clock.time_runs(self.run_once, [], 1)
        self.assertFalse(self.collects)
        self.assertTrue(gc.isenabled())


if __name__ == "__main__":
    unittest.main()
