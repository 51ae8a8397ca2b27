"""`edgesdk sweep` at a profile's prices, and `deploy --from` what it wrote."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import contracts
import pytest
from running import Run

import edgesdk as sdk
from edgesdk.core.errors import BundleError, UsageError

SMALL = ("models.py:Small", "--data", "data.npz")


@pytest.fixture(scope="module")
def front(given: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import running

    out = tmp_path_factory.mktemp("sweep")
    model = (f"{given / 'models.py'}:Small", "--data", given / "data.npz")
    where = ("--target", "pi4", "--target", "pi5", "--runtime", "onnxruntime", "--points", "3")
    done = running.edgesdk("sweep", *model, *where, "--out", out / "front.json", "--csv", out / "front.csv", "--json")
    contracts.check(done.document)
    assert json.loads((out / "front.json").read_text()) == done.document
    return out / "front.json"


def test_targets_stand_side_by_side_each_with_a_front_of_its_own(front: Path) -> None:
    read = sdk.Front.read(front)
    assert [point.number for point in read.points] == list(range(1, len(read.points) + 1))
    assert {point.target for point in read.points} == {"raspberry-pi-4", "raspberry-pi-5"}
    for name in ("raspberry-pi-4", "raspberry-pi-5"):
        own = [point for point in read.points if point.target == name]
        assert {"dense"} <= {point.kind for point in own} and any(point.ratio < 1 for point in own)
        best = [point for point in own if point.best]
        assert [p.loss for p in best] == sorted((p.loss for p in best), reverse=True)
    rows = list(csv.DictReader(front.with_name("front.csv").open()))
    assert len(rows) == len(read.points) and float(rows[0]["latency_ms"]) == read.points[0].predicted.latency_ms
    assert all(row["size_bytes"].isdigit() for row in rows)


def test_a_point_is_carried_out(front: Path, given: Path, edgesdk: Run, tmp_path: Path) -> None:
    point = next(p for p in sdk.Front.read(front).points if p.target == "raspberry-pi-5" and p.kind == "plan")
    taken = ("--from", front, "--point", str(point.number))
    done = edgesdk("deploy", *SMALL, *taken, "--epochs", "0", "--out", tmp_path / "bundle", "--json")
    manifest, report = done.document["manifest"], done.document["report"]
    assert manifest["target"] == point.target and manifest["runtime"]["name"] == point.runtime
    assert report["deployed"]["median_ms"] <= point.predicted.latency_ms * 1.04
    score = report["score"]
    right = int(score["decisions"]["right"], 16).bit_count()
    assert score["samples"] == score["decisions"]["samples"] > 0
    assert score["deployed"] == pytest.approx(100 * right / score["samples"])


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("deploy", *SMALL, "--from", "front.json"), 2, "--from without --point"),
        (("deploy", *SMALL, "--point", "1"), 2, "--point without --from"),
        (("deploy", *SMALL, "--from", "nowhere.json", "--point", "1"), 8, "cannot be read"),
        (("deploy", *SMALL, "--from", "models.py", "--point", "1"), 8, "cannot be read"),
        (("sweep", *SMALL), 2, "no target"),
        (("sweep", *SMALL, "--target", "pi9"), 2, "pi9"),
        (("sweep", *SMALL, "--target", "pi5", "--latency", "fast"), 2, "--latency"),
        (("sweep", *SMALL, "--target", "pi5", "--points", "0"), 2, "--points"),
        (("sweep", *SMALL, "--target", "pi5", "--size", "12"), 2, "no unit"),
        (("sweep", *SMALL, "--target", "pi5", "--out", "no/such/folder/f.json"), 9, "cannot be written"),
        (("sweep", "models.py:Small", "--target", "pi5"), 2, "no data"),
    ],
)
def test_what_is_asked_wrongly_is_said(edgesdk: Run, arguments: tuple[Any, ...], code: int, says: str) -> None:
    done = edgesdk(*arguments)
    assert done.code == code and says in done.line and not done.out


def test_what_cannot_be_kept_is_said_with_figures(edgesdk: Run, tmp_path: Path) -> None:
    where = ("--target", "pi5", "--runtime", "onnxruntime", "--out", tmp_path / "front.json")
    done = edgesdk("sweep", *SMALL, *where, "--size", "10B", "--json")
    failure = contracts.loaded(done.out)
    assert (done.code, failure["kind"], failure["budget"]["figure"]) == (5, "budget", "size_bytes")
    assert (
        failure["budget"]["asked"] == 10 < failure["budget"]["tightest"] and failure["budget"]["basis"] == "predicted"
    )
    assert not (tmp_path / "front.json").exists()
    done = edgesdk("sweep", *SMALL, *where, "--latency", "0.0001x", "--latency", "1x")
    assert done.code == 0 and "left out: raspberry-pi-5, onnxruntime, " in done.out.replace("\n", " ")


def test_what_a_point_says_is_not_said_twice(edgesdk: Run, front: Path) -> None:
    done = edgesdk("deploy", *SMALL, "--from", front, "--point", "1", "--target", "pi5")
    assert done.code == 2 and "--target beside --point" in done.line
    done = edgesdk("deploy", *SMALL, "--from", front, "--point", "99")
    assert done.code == 2 and "no point 99" in done.line


def test_a_front_is_a_table_of_pandas(front: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = sdk.Front.read(front)
    table = read.to_frame()
    assert list(table.index) == [point.number for point in read.points]
    assert table.query("best")["latency_ms"].tolist() == [p.predicted.latency_ms for p in read.points if p.best]
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UsageError, match="pandas is not installed"):
        read.to_frame()


def test_a_document_of_another_kind_or_a_newer_one_is_no_front(front: Path, tmp_path: Path) -> None:
    document = json.loads(front.read_text())
    for schema in ("edgesdk.plan/2", "edgesdk.front/9", None):
        (tmp_path / "other.json").write_text(json.dumps({**document, "schema": schema}))
        with pytest.raises(BundleError):
            sdk.Front.read(tmp_path / "other.json")
    with pytest.raises(UsageError, match="no point 0"):
        sdk.Front.read(front).point(0)
