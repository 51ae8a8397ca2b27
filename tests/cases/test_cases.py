"""Every case, under every plan, in every runtime: the file answers what the user's own module answers."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from cases_harness import Case, judge

FAMILIES = sorted(path.stem for path in Path(__file__).parent.glob("cases_*.py") if path.stem != "cases_harness")
CASES = [case for family in FAMILIES for case in importlib.import_module(family).CASES]
EVERY = [(case, plan, runtime) for case in CASES for plan in case.plans for runtime in case.runtimes]


@pytest.mark.parametrize(("case", "plan", "runtime"), EVERY, ids=[" ".join(map(str, case)) for case in EVERY])
def test_a_file_answers_what_the_module_answers(case: Case, plan: str, runtime: str, tmp_path: Path) -> None:
    judge(case, plan, runtime, tmp_path)


def test_the_names_of_cases_differ() -> None:
    names = [case.name for case in CASES]
    assert len(names) == len(set(names))
