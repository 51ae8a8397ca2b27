"""Which cases of a matrix `pytest` runs by itself. The rest are marked `slow`: `.ci/run` runs them, and `-m ''`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

FAULTS = "tests/agent/test_agent_faults.py::EveryOperation::test_"
LONG = (
    "tests/agent/test_agent_install.py::Health::test_the_budget_of_latency",  # board_install has the same
    "tests/agent/test_agent_install.py::Installing::test_what_runs_stays_although_it_became_unfit",
    "tests/agent/test_agent_runners.py::Together::test_artifacts_of_several_runtimes",  # test_formats: auto
    "tests/pipeline/test_killed.py",  # processes really killed; test_interruption interrupts at more places
    "tests/pipeline/test_deadline.py::test_a_run_ends_within",  # laws of many runs; test_interruption is of one
    "tests/pipeline/test_deadline.py::test_more_time",
    "tests/backend/test_memory.py::test_predicted_memory_is_the_measured_one",  # test_peak_memory
    "tests/e2e/test_formats.py::test_a_deployment_for_one_runtime",  # test_formats: auto, and the conformance matrix
    "tests/backend/test_quantize_techniques.py::test_adaptive_rounding_holds",  # errs_less_than_nearest
    "tests/cli/test_ci_files.py::test_a_job_runs",  # whole deployments, twice; the commands are parsed by themselves
    "tests/cli/test_gate.py::test_what_is_much_slower",  # test_slowdowns has its decisions
    "tests/budgets/test_budgets.py::test_a_budget_is_kept_or_out_of_reach[tokens-no-size]",  # test_bad_input: 10 bytes
    "tests/backend/test_conformance.py::test_a_file_computes_what_the_simulation_computes[mobilenet_v2-all-onnxruntime]",
    "tests/board/test_board_deploy.py::test_a_profile_of_the_board",  # test_calibrate, of the machine at hand
    "tests/backend/test_zoo_sample.py::test_files_are_faithful_or_refused[own:",  # those of timm are smaller
    "tests/e2e/test_bounds.py::test_the_fastest_within_a_drop_keeps_the_drop[30.0]",
    "tests/e2e/test_bring_a_model.py",  # test_files_in: three ways in; test_documents: the commands are parsed
)
"""Tests that take long for what they add, each beside what covers its ground where `pytest` runs by itself."""
WHOLE = (*(f"{FAULTS}{name}" for name in ("one_that_prunes", "a_rollback", "mending_what_runs")), *LONG)
"""Of every fault at every step the first installation is the core, in files that know no pytest; and what is long."""


def core(cases: Iterable[Any], wanted: Callable[..., bool]) -> list[Any]:
    """``cases`` for ``parametrize``, those slow that are not ``wanted``; a tuple is given as several arguments."""
    marked = []
    for case in cases:
        values = case if isinstance(case, tuple) else (case,)
        marked.append(case if wanted(*values) else pytest.param(*values, marks=pytest.mark.slow))
    return marked
