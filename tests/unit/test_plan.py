"""Plans: their JSON form, their digest, and which graph they are for."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from graphs import plans, random_graph
from hypothesis import assume, given
from hypothesis import strategies as st

from edgesdk.core.budget import Cost
from edgesdk.core.errors import BundleError
from edgesdk.core.plan import INT8, NOT_SEARCHED, SCHEMA, Form, Option, Plan, Proof
from edgesdk.core.serialize import dumps, from_json, to_json


@given(plans())
def test_a_plan_keeps_its_digest_through_its_file(plan: Plan) -> None:
    again = from_json(Plan, json.loads(dumps(plan)))
    assert again.digest == plan.digest and again.options == plan.options


@given(plans(), st.integers(SCHEMA.version + 1, 10**6))
def test_a_newer_schema_is_refused_and_so_is_another_document(plan: Plan, version: int) -> None:
    for schema in (version, f"edgesdk.plan/{version}"):
        with pytest.raises(BundleError, match=r"newer than edgesdk.plan/2: update edgesdk"):
            from_json(Plan, {**to_json(plan), "schema": schema})
    for schema in (True, 0, -1, None, "2", "plan/2", "edgesdk.report/1", "edgesdk.plan/02", [version]):
        with pytest.raises(BundleError, match=r"the plan has the schema .*, not edgesdk.plan/2"):
            from_json(Plan, {**to_json(plan), "schema": schema})


@given(plans())
def test_plans_of_before_are_read(plan: Plan) -> None:
    for schema in (1, "edgesdk.plan/1"):
        assert from_json(Plan, {**to_json(plan), "schema": schema}) == from_json(Plan, to_json(plan))
    document = to_json(plan)
    del document["schema"]
    assert from_json(Plan, document).schema == SCHEMA == "edgesdk.plan/2"


@given(plans())
def test_the_digest_is_of_the_decisions_alone(plan: Plan) -> None:
    told = replace(plan, predicted=Cost(1.0, 2.0, 3.0, "predicted"), rejected=(), target="another", threads=99)
    told = replace(told, layers=tuple(replace(layer, reason="because", latency_ms=9.0) for layer in plan.layers))
    assert told.digest == plan.digest
    for other in (
        replace(plan, kept={**plan.kept, "another group": 4}),
        replace(plan, dropped=(*plan.dropped, "another branch")),
        replace(plan, graph_digest=plan.graph_digest + "0"),
    ):
        assert other.digest != plan.digest


@given(plans(), st.integers(0, 1000))
def test_another_option_is_another_digest(plan: Plan, index: int) -> None:
    assume(plan.layers)
    layer = plan.layers[index % len(plan.layers)]
    bits = 4 if layer.option.weight_bits != 4 else 8
    layers = tuple(replace(p, option=replace(p.option, weight_bits=bits)) if p is layer else p for p in plan.layers)
    assert replace(plan, layers=layers).digest != plan.digest


@given(plans(), st.integers(0, 10**9))
def test_a_plan_is_for_one_graph(plan: Plan, seed: int) -> None:
    graph = random_graph(seed)
    replace(plan, graph_digest=graph.digest).check(graph)
    with pytest.raises(BundleError, match="another model"):
        plan.check(graph)


@pytest.mark.parametrize(
    ("option", "text"),
    [
        (Option(), "fp32"),
        (Option(INT8, 8), "int8"),
        (Option(INT8, 4), "int8, 4-bit weights"),
        (Option(form=Form("svd", (16,))), "fp32, svd 16"),
        (Option(INT8, 4, Form("tucker", (8, 16))), "int8, 4-bit weights, tucker 8x16"),
    ],
)
def test_an_option_says_what_it_is(option: Option, text: str) -> None:
    assert str(option) == text


@pytest.mark.parametrize(
    ("objective", "bound", "gap", "said"),
    [
        (1.5, 1.5, 0.0, "within 0 %"),
        (1.5, 1.47, 0.02, "within 2 %"),
        (2e-8, 0.0, 1.0, "within a loss of 2e-08"),  # 100 % of nothing
        (2.0, 0.0, 1.0, "within a loss of 2"),
        (3e-6, 1e-6, 0.67, "within a loss of 2e-06"),
        (3e-6, -1e-6, 1.3, "within a loss of 3e-06"),  # less than nothing no plan loses
        (1.5, 1.35, 0.1, "within 10 %"),
        (1.5, 1.5, 3e-9, "within 0.01 %"),
        (2e-8, 2e-8, 0.0, "within 0 %"),
    ],
)
def test_a_proof_says_what_is_left_of_a_loss_that_is_next_to_nothing(
    objective: float, bound: float, gap: float, said: str
) -> None:
    assert Proof(objective, bound, gap, 0.1, "HiGHS").words == f"proved {said} of the best plan at these prices"


def test_a_plan_that_was_not_searched_for_proves_nothing() -> None:
    fixed = Proof(0.0, 0.0, 0.0, 0.0, NOT_SEARCHED)
    assert (fixed.words, fixed.within) == ("made without a search", NOT_SEARCHED) and not fixed.is_far
