"""Every document that is printed or written says its schema, and is what that schema says."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import contracts
import jsonschema
import pytest
from running import Run

import write_schemas
from edgesdk.bundle.bundle import Bundle, check
from edgesdk.cli.documents import Failure
from edgesdk.core.budget import Budget, Cost
from edgesdk.core.errors import BudgetError, BundleError, EdgeSdkError, UsageError
from edgesdk.core.serialize import dumps
from edgesdk.workflows.export import read_plan

BEFORE = Path(__file__).parent / "before"  # a bundle and an export as the version before wrote them
DATA = ("models.py:Small", "--data", "data.npz", "--target", "pi5")


def test_the_schemas_are_those_of_the_types() -> None:
    """``python tools/write_schemas.py`` writes them anew."""
    there = {path.name: path.read_text("utf-8") for path in contracts.SCHEMAS.glob("*.json")}
    assert there == write_schemas.files()


def test_a_field_too_many_or_too_few_is_found(deployed: tuple[Path, str]) -> None:
    plan = json.loads((deployed[0] / "plan.json").read_text())
    contracts.check(plan)
    for other in ({**plan, "colour": 3}, {**plan, "threads": 1.5}, {k: v for k, v in plan.items() if k != "proof"}):
        with pytest.raises(jsonschema.ValidationError):
            contracts.check(other)


def test_what_is_in_a_bundle(deployed: tuple[Path, str]) -> None:
    documents = {path.name: contracts.loaded(path.read_text()) for path in deployed[0].glob("*.json")}
    assert {name: document["schema"] for name, document in documents.items()} == {
        "manifest.json": "edgesdk.manifest/2", "plan.json": "edgesdk.plan/2", "report.json": "edgesdk.report/2",
    }  # fmt: skip
    sizes = [figure for figure in _under("_bytes", documents) if figure is not None]
    assert len(sizes) > 10 and all(type(size) is int for size in sizes)


def _under(ending: str, value: Any) -> list[Any]:
    """What is under keys with that ``ending``, at any depth; but for ratios, which go by the name of their bound."""
    if isinstance(value, list):
        return [entry for item in value for entry in _under(ending, item)]
    if not isinstance(value, dict):
        return []
    own = [item for key, item in value.items() if key.endswith(ending)]
    return own + [entry for key, item in value.items() if key != "misses" for entry in _under(ending, item)]


def test_bundles_of_before_are_taken(tmp_path: Path) -> None:
    bundle = Bundle.open(BEFORE / "bundle")
    assert bundle.manifest["schema"] == 1 and bundle.plan.schema == "edgesdk.plan/2"
    assert check(BEFORE / "bundle").sample_error and check(BEFORE / "exported").files == 2
    assert read_plan(BEFORE / "bundle" / "plan.json").digest == bundle.manifest["plan"]
    for schema in (3, "edgesdk.manifest/3", "edgesdk.plan/2", None):
        other = tmp_path / "other"
        shutil.copytree(BEFORE / "bundle", other)
        (other / "manifest.json").write_text(json.dumps({**bundle.manifest, "schema": schema}))
        with pytest.raises(BundleError, match="has the schema"):
            check(other)
        shutil.rmtree(other)


def test_a_folder_of_files_is_told_from_a_bundle(tmp_path: Path) -> None:
    for schema in (1, "edgesdk.folder/2"):
        (tmp_path / "manifest.json").write_text(json.dumps({"schema": schema, "files": {"model.onnx": {}}}))
        with pytest.raises(BundleError, match="is a folder of files and no bundle: name a file in it"):
            Bundle.open(tmp_path)
    with pytest.raises(BundleError, match="is a folder of files and no bundle"):
        Bundle.open(BEFORE / "exported")


@pytest.mark.parametrize(
    "words, code, kind",
    [
        (("estimate", "models.py:Small", "--target", "pi5"), 2, "usage"),
        (("targets", "--colour"), 2, "usage"),
        (("targets", "pi77"), 2, "usage"),
        (("estimate", "models.py:None", "--shape", "3", "--target", "pi5"), 3, "model"),
        (("verify", "nothing"), 8, "bundle"),
        (("export", "nothing", *DATA[:3], "--out", "nowhere"), 8, "bundle"),
    ],
    ids=str,
)
def test_errors_are_documents_too(edgesdk: Run, words: tuple[str, ...], code: int, kind: str) -> None:
    plain, done = edgesdk(*words), edgesdk(*words, "--json")
    assert (plain.code, plain.out) == (code, "")
    failure = contracts.loaded(done.out)
    assert (failure["exit_code"], failure["kind"], failure["budget"]) == (done.code, kind, None) and done.code == code
    assert done.line == plain.line == f"edgesdk: {failure['fact']}: {failure['remedy']}"


def test_a_budget_out_of_reach_has_its_numbers(edgesdk: Run, tmp_path: Path) -> None:
    done = edgesdk("search", *DATA, "--size", "100B", "--force", "--out", tmp_path / "plan.json", "--json")
    failure = contracts.loaded(done.out)
    assert (done.code, failure["kind"]) == (5, "budget") and done.line
    missed = failure["budget"]
    assert (missed["figure"], missed["asked"], missed["basis"]) == ("size_bytes", 100, "predicted")
    assert type(missed["tightest"]) is int and missed["tightest"] == missed["built"]["size_bytes"] > 100
    assert missed["built"]["latency_ms"] > 0


def test_every_kind_of_error_has_a_document() -> None:
    kinds = [EdgeSdkError, *EdgeSdkError.__subclasses__()]
    failures = [Failure.of(kind("this is so", "do that")) for kind in kinds]
    for failure in failures:
        contracts.loaded(dumps(failure))
    assert len({failure.kind for failure in failures}) == len({failure.exit_code for failure in failures}) == len(kinds)
    with pytest.raises(BudgetError) as raised:
        Budget(accuracy=90).given(80.5)
    assert (raised.value.figure, raised.value.asked, raised.value.tightest) == ("accuracy", 90, 80.5)
    assert Failure.of(UsageError("a", "b")).budget is None


def test_what_is_no_number_is_null_and_bytes_are_whole() -> None:
    cost = json.loads(dumps(Cost(math.inf, 1000.4, 12.6, "predicted", latency_ratio=math.nan)))
    assert cost == {
        "latency_ms": None, "peak_memory_bytes": 1000, "size_bytes": 13, "basis": "predicted", "latency_ratio": None,
        "energy_mj": None,
    }  # fmt: skip
