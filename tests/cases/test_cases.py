"""Every case, under every plan, in every runtime: the file answers what the user's own module answers."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from cases_harness import Case, judge, traced_once

from edgesdk.network.fuse import flat

FAMILIES = sorted(path.stem for path in Path(__file__).parent.glob("cases_*.py") if path.stem != "cases_harness")
CASES = [case for family in FAMILIES for case in importlib.import_module(family).CASES]
EVERY = [(case, plan, runtime) for case in CASES for plan in case.plans for runtime in case.runtimes]


@pytest.mark.parametrize(("case", "plan", "runtime"), EVERY, ids=[" ".join(map(str, case)) for case in EVERY])
def test_a_file_answers_what_the_module_answers(case: Case, plan: str, runtime: str, tmp_path: Path) -> None:
    judge(case, plan, runtime, tmp_path)


@pytest.mark.parametrize(
    ("name", "outputs"),
    [
        ("plain", ["output"]),
        ("returns: nested", ["out.y", "list.0", "list.1.1.z"]),
        ("returns: a named tuple", ["mean", "extra.f"]),
        ("returns: a dataclass", ["logits", "features.0", "features.1"]),
        ("returns: a dict of one's own", ["scores", "features"]),
        ("returns: none and numbers", ["output_0", "output_1"]),
        ("returns: its input", ["output_0", "y", "again"]),  # a file has an input of that name
    ],
)
def test_a_file_calls_outputs_as_the_module_does(name: str, outputs: list[str]) -> None:
    model, x = next(case for case in CASES if case.name == name).made()
    assert list(flat(model, x).structure.output_names) == outputs


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_can_be_cut_is_read_where_its_loss_is_seen(case: Case) -> None:
    network = traced_once(case)
    free = [group.name for group in network.graph.groups if group.fixed is None]
    assert not [name for name in free if not network.entries(name)]


def test_the_names_of_cases_differ() -> None:
    names = [case.name for case in CASES]
    assert len(names) == len(set(names))
