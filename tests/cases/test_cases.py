"""Every case, under every plan, in every runtime: the file answers what the user's own module answers."""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path

import pytest
import slow
from cases_harness import CUT, CUT_INT8, Case, cut_once, distance, expected, judge, traced_once
from removed import judged, without

from edgesdk.network.fuse import flat

FAMILIES = sorted(path.stem for path in Path(__file__).parent.glob("cases_*.py") if path.stem != "cases_harness")
CASES = [case for family in FAMILIES for case in importlib.import_module(family).CASES]
GROUPS = Path(__file__).parent / "groups.json"  # of each case those that are cut; EDGESDK_GOLDEN=write writes it
CUTS = {"dense": CUT, "int8": CUT_INT8}


def plans(case: Case) -> tuple[str, ...]:
    """The case's plans, each cut as well where there is something to cut."""
    return (*case.plans, *(CUTS[plan] for plan in case.plans if json.loads(GROUPS.read_text()).get(case.name)))


EVERY = [(case, plan, runtime) for case in CASES for plan in plans(case) for runtime in case.runtimes]


def is_core(case: Case, plan: str, runtime: str) -> bool:
    """Of what is cut one file each: the others are made of the same network, as those of what is not cut."""
    return plan in case.plans or (plan, runtime) == (CUT, "onnxruntime")


@pytest.mark.parametrize(
    ("case", "plan", "runtime"), slow.core(EVERY, is_core), ids=[" ".join(map(str, case)) for case in EVERY]
)
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


def test_no_case_loses_a_group() -> None:
    found = {case.name: [group.name for group in judged(traced_once(case))] for case in CASES}
    if os.environ.get("EDGESDK_GOLDEN") == "write":
        lines = (f"  {json.dumps(name)}: {json.dumps(groups)}" for name, groups in found.items())
        GROUPS.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    assert json.loads(GROUPS.read_text()) == found


@pytest.mark.parametrize("name", ["plain", "families: norms", "structure: recurrent", "weights: spelled"])
def test_what_is_judged_by_is_not_what_is_whole(name: str) -> None:
    """The user's module without the channels answers otherwise than with them, and than without others."""
    case = next(case for case in CASES if case.name == name)
    network, (_, gone) = traced_once(case), cut_once(case)
    others = {
        group: [place for place in range(network.graph.group_by_name[group].size) if place not in places]
        for group, places in gone.items()
    }
    x = case.made()[1]
    whole, cut, other = (
        expected(model, x)[0]
        for model in (case.made()[0], *(without(case.made()[0], network, some) for some in (gone, others)))
    )
    assert distance(cut, whole) > 0.1 and distance(cut, other) > 0.1


def test_the_names_of_cases_differ() -> None:
    names = [case.name for case in CASES]
    assert len(names) == len(set(names))
