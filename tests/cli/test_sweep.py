"""`edgesdk sweep` at a profile's prices, and `deploy --from` what it wrote."""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import contracts
import pytest
import torch
from running import Run
from slow import core

import edgesdk as sdk
from edgesdk.bundle.bundle import Bundle
from edgesdk.core.budget import show
from edgesdk.core.errors import BundleError, UsageError
from edgesdk.pages.front_page import compare_places
from edgesdk.workflows.export import export_plan
from edgesdk.workflows.front import ROOM
from edgesdk.workflows.sweep import keep_possible, name_models, pick_points
from edgesdk.workflows.where import Where

SMALL = ("models.py:Small", "--data", "data.npz")


@pytest.fixture(scope="module")
def drawn(given: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A front of two targets in two runtimes, whose first knees were built."""
    import running

    out = tmp_path_factory.mktemp("sweep")
    model = (f"{given / 'models.py'}:Small", "--data", given / "data.npz")
    where = ("--target", "pi4", "--target", "pi5", "--points", "3", "--size", "1MB", "--build", "1", "--epochs", "0")
    done = running.edgesdk("sweep", *model, *where, "--out", out / "front.json", "--csv", out / "front.csv", "--json")
    contracts.check(done.document)
    assert json.loads((out / "front.json").read_text()) == done.document
    assert done.document["command"].startswith("edgesdk sweep ") and "--build 1 " in done.document["command"]
    return out / "front.json"


@pytest.mark.parametrize("epochs", [float("nan"), float("inf"), -1.0])
def test_epochs_that_are_no_number_of_them_are_refused_in_python_too(
    drawn: Path, given: Path, tmp_path: Path, epochs: float
) -> None:  # fmt: skip
    front = sdk.Front.read(drawn)
    model, data = f"{given / 'models.py'}:Small", given / "data.npz"
    with pytest.raises(UsageError, match="epochs: give 0 for none, or more"):
        front.build([1], model, data, tmp_path / "built", epochs=epochs)
    with pytest.raises(UsageError, match="epochs: give 0 for none, or more"):
        export_plan(front.point(1).plan, model, data=data, out=tmp_path / "exported", epochs=epochs)
    assert not list(tmp_path.iterdir())


def test_targets_stand_side_by_side_each_with_a_front_of_its_own(drawn: Path) -> None:
    read = sdk.Front.read(drawn)
    assert [point.number for point in read.points] == list(range(1, len(read.points) + 1))
    assert {point.target for point in read.points} == {"raspberry-pi-4", "raspberry-pi-5"}
    for name in ("raspberry-pi-4", "raspberry-pi-5"):
        own = [point for point in read.points if point.target == name]
        assert {"dense"} <= {point.kind for point in own} and any(point.ratio < 1 for point in own)
        best = [point for point in own if point.best]
        assert [p.loss for p in best] == sorted((p.loss for p in best), reverse=True)
    rows = list(csv.DictReader(drawn.with_name("front.csv").open()))
    assert len(rows) == len(read.points) and float(rows[0]["latency_ms"]) == read.points[0].predicted.latency_ms
    assert all(row["size_bytes"].isdigit() for row in rows)


def test_the_knees_are_built_each_to_a_bundle_of_its_own(drawn: Path, edgesdk: Run) -> None:
    front = sdk.Front.read(drawn)
    made = {point.number: point.built for point in front.points if point.built is not None}
    assert list(made) == sorted(pick_points(front, 1)) and len(made) == 2 and front.bounds.size_bytes == 1e6
    for number, came_to in made.items():
        point, bundle = front.point(number), Bundle.open(came_to.bundle)
        assert Path(came_to.bundle) == drawn.with_suffix("") / f"point-{number}"
        assert (bundle.plan.target, bundle.plan.runtime, bundle.plan.threads) == (
            point.target, point.runtime, point.threads
        )  # fmt: skip
        assert came_to.plan == bundle.plan.digest and came_to.as_planned == (came_to.plan == point.plan.digest)
        assert came_to.cost.basis == "predicted", "a board that is not here measures nothing"
        assert came_to.cost.latency_ms == bundle.report["deployed"]["median_ms"]
        assert bundle.report["budget"]["size_bytes"] == 1e6
        assert (came_to.cost.latency_ratio or 0) <= bundle.report["budget"]["latency_ratio"]
        assert came_to.score == bundle.report["score"]["deployed"]
        assert bundle.report["command"] == front.command
    rows = {int(row["number"]): row for row in csv.DictReader(drawn.with_name("front.csv").open())}
    for number, row in rows.items():
        assert bool(row["built"]) == (number in made)
        if number in made:
            assert float(row["built_latency_ms"]) == made[number].cost.latency_ms and row["built_basis"] == "predicted"
    document = json.loads(drawn.read_text())
    assert {point["built"]["bundle"] for point in document["points"] if point["built"]} == {
        f"front/point-{number}" for number in made
    }, "as they are called from where the front is"
    page = edgesdk("report", drawn)
    text = drawn.with_suffix(".html").read_text("utf-8")
    assert page.code == 0 and all(f"front/point-{number}/report.html" in text for number in made)
    over = ("--build", "1", "--out", "other.json", "--out-dir", drawn.with_suffix(""))
    again = edgesdk("sweep", *SMALL, "--target", "pi5", *over)
    assert again.code == 8 and "exists" in again.line


def test_a_target_without_a_runtime_is_left_out_before_anything_is_measured() -> None:
    def at(name: str, runtime: str, precision: str = "fp32") -> Where:
        return Where.named(name, runtime, precisions=(precision,))

    kept, lacking = keep_possible([at("x86", "openvino"), at("pi5", "openvino"), at("pi5", "auto")])
    assert [(where.target.name, where.runtime) for where in kept] == [("x86", "openvino"), ("raspberry-pi-5", "auto")]
    ((left_out, why),) = lacking.items()
    assert left_out == "raspberry-pi-5, openvino" and "has no runtime 'openvino'" in why
    for places in ([at("pi5", "tensorrt")], [at("x86", "openvino"), at("pi5", "nonesuch")]):
        with pytest.raises(UsageError, match=f"has no runtime '{places[-1].runtime}'"):
            keep_possible(places)
    with pytest.raises(UsageError, match="runs no layer in fp16"):
        keep_possible([at("pi5", "onnxruntime", "fp16")])


@pytest.mark.slow
def test_what_is_measured_here_stands_beside_what_is_predicted(given: Path, edgesdk: Run, tmp_path: Path) -> None:
    """Two targets, runtimes and numbers of threads: all in one front, as a document, CSV, page and DataFrame."""
    where = ("--target", "x86", "--target", "pi5", "--runtime", "onnxruntime", "--runtime", "openvino")
    out = ("--out", tmp_path / "front.json", "--csv", tmp_path / "front.csv")
    done = edgesdk("sweep", *SMALL, *where, "--threads", "1", "--threads", "2", "--points", "2", *out)
    assert done.code == 0, done.err
    front = sdk.Front.read(tmp_path / "front.json")
    here = {("x86", runtime, threads) for runtime in ("onnxruntime", "openvino") for threads in (1, 2)}
    board = {("raspberry-pi-5", "onnxruntime", threads) for threads in (1, 2)}
    assert {(point.target, point.runtime, point.threads) for point in front.points} == here | board
    assert any("openvino" in where for where in front.refused), "a board without it"
    for target in ("x86", "raspberry-pi-5"):
        own = [point for point in front.points if point.target == target]
        assert [point.predicted.latency_ms for point in own] == sorted(point.predicted.latency_ms for point in own)
        for point in own:
            beaten = any(
                other.loss <= point.loss and other.predicted.latency_ms <= point.predicted.latency_ms
                and (other.loss, other.predicted.latency_ms) != (point.loss, point.predicted.latency_ms)
                for other in own
            )  # fmt: skip
            assert not (point.best and beaten)
    rows = list(csv.DictReader((tmp_path / "front.csv").open()))
    frame = front.to_frame()
    assert len(rows) == len(frame) == len(front.points)
    assert [int(row["threads"]) for row in rows] == frame["threads"].tolist() == [p.threads for p in front.points]
    assert frame.groupby(["target", "runtime", "threads"])["latency_ms"].min().gt(0).all()
    assert edgesdk("report", tmp_path / "front.json").code == 0
    text = (tmp_path / "front.html").read_text("utf-8")
    assert text.count("<svg") == 2 and "openvino, 2 threads" in text


def test_chosen_points_are_built_of_a_front_that_is_there(drawn: Path, given: Path, tmp_path: Path) -> None:
    """Of another runtime's point, too, whose share is of the dense model in that runtime, the fastest or not."""
    front = sdk.Front.read(drawn)
    dense = [point for point in front.points if point.kind == "dense" and point.target == "raspberry-pi-5"]
    assert len(dense) > 1 and all(0.9 < point.own_share < 1.1 for point in dense)
    slowest = max(dense, key=lambda point: point.ratio)
    assert slowest.ratio > 1.2
    own = [p for p in front.points if (p.target, p.runtime, p.kind) == (slowest.target, slowest.runtime, "plan")]
    taken = next(point for point in own if point.built is None)
    after = front.build([taken.number], f"{given / 'models.py'}:Small", str(given / "data.npz"), tmp_path, epochs=0)
    came_to = after.point(taken.number).built
    assert came_to is not None and Path(came_to.bundle) == tmp_path / f"point-{taken.number}"
    assert came_to.cost.latency_ms <= taken.predicted.latency_ms * 1.04
    assert [point.built for point in after.points if point is not after.point(taken.number)] == [
        point.built for point in front.points if point.number != taken.number
    ]


def test_a_front_of_another_model_or_of_other_prices(edgesdk: Run, given: Path, tmp_path: Path) -> None:
    small, deep, data = (str(given / name) for name in ("models.py:Small", "models.py:Deep", "data.npz"))
    front = sdk.sweep(deep, "pi5", data, runtime="onnxruntime", points=3)
    point = min((point for point in front.points if point.kind == "plan"), key=lambda point: point.own_share)
    front.write(tmp_path / "drawn.json")
    deploy = ("--data", "data.npz", "--point", str(point.number), "--epochs", "0")
    done = edgesdk("deploy", SMALL[0], *deploy, "--from", tmp_path / "drawn.json", "--out", tmp_path / "b")
    assert done.code == 2 and "the front is of another model" in done.line and not (tmp_path / "b").exists()
    with pytest.raises(UsageError, match="another model"):
        front.build([point.number], small, data, tmp_path, epochs=0)
    with pytest.raises(UsageError, match="no point 99"):
        front.build([99], deep, data, tmp_path)
    slower = replace(point, predicted=replace(point.predicted, latency_ms=2 * point.predicted.latency_ms))
    replace(front, points=(slower,)).write(tmp_path / "front.json")
    done = edgesdk("deploy", "models.py:Deep", *deploy, "--from", tmp_path / "front.json", "--out", tmp_path / "c")
    assert done.code == 0 and "have changed since the front was made: point" in done.err
    assert f"was {show('latency_ms', slower.predicted.latency_ms)} at a loss of" in done.err
    assert (tmp_path / "c" / "manifest.json").is_file(), "it is carried out at the prices of today"


@pytest.mark.parametrize(("kind", "times"), [("dense", 2), ("dense int8", 2), ("dense int8", 1)])
def test_a_point_that_needs_no_search_is_compared_with_the_prices_of_today(
    drawn: Path, edgesdk: Run, tmp_path: Path, kind: str, times: int
) -> None:
    front = sdk.Front.read(drawn)
    point = next(p for p in front.points if p.target == "raspberry-pi-5" and p.kind == kind)
    then = replace(point, predicted=replace(point.predicted, latency_ms=times * point.predicted.latency_ms))
    replace(front, points=(then,)).write(tmp_path / "front.json")
    taken = ("--from", tmp_path / "front.json", "--point", str(point.number), "--epochs", "0")
    done = edgesdk("deploy", *SMALL, *taken, "--out", tmp_path / "bundle")
    was = f"point {point.number} was {show('latency_ms', then.predicted.latency_ms)} at a loss of {point.loss:.2g}, "
    assert done.code == 0, done.err
    assert times == 1 or f"prices or data have changed since the front was made: {was}" in done.err
    assert times == 2 or "have changed since" not in done.err


def test_points_of_a_model_with_other_weights(edgesdk: Run, given: Path, tmp_path: Path) -> None:
    layers = {"conv.weight": (8, 3, 3, 3), "conv.bias": (8,), "fc.weight": (4, 8), "fc.bias": (4,)}
    for seed, name in enumerate(("same.pt", "other.pt")):
        torch.manual_seed(seed)
        torch.save({layer: torch.randn(shape) for layer, shape in layers.items()}, tmp_path / name)
    front = sdk.sweep(
        f"{given / 'models.py'}:Small", "pi5", given / "data.npz", runtime="onnxruntime", points=2,
        weights=tmp_path / "same.pt",
    )  # fmt: skip
    front.write(tmp_path / "front.json")
    for kind, weights in (("dense", "same.pt"), ("dense", "other.pt"), ("plan", "same.pt"), ("plan", "other.pt")):
        number = next(point.number for point in front.points if point.kind == kind)
        taken = ("--from", tmp_path / "front.json", "--point", str(number), "--weights", tmp_path / weights)
        done = edgesdk("deploy", *SMALL, *taken, "--epochs", "0", "--out", tmp_path / "bundle", "--force")
        warned = "the weights are not those that the front was made of; edgesdk sweep draws it anew"
        assert done.code == 0 and (warned in done.err) == (weights == "other.pt"), done.err


def test_a_point_is_carried_out(drawn: Path, given: Path, edgesdk: Run, tmp_path: Path) -> None:
    point = next(p for p in sdk.Front.read(drawn).points if p.target == "raspberry-pi-5" and p.kind == "plan")
    taken = ("--from", drawn, "--point", str(point.number))
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
        (("sweep", *SMALL, "--target", "pi5", "--latency", ","), 2, "--latency ',' has a part that is empty"),
        (("sweep", *SMALL, "--target", "pi5", "--latency", "1ms,,2ms"), 2, "--latency '1ms,,2ms' has a part"),
        (("sweep", *SMALL, "--target", "pi5", "--latency", ""), 2, "--latency '' has a part that is empty"),
        (("sweep", *SMALL, "--target", "pi5", "--points", "3", "--latency", "1ms"), 2, "--points beside --latency"),
        (("sweep", *SMALL, "--target", "pi5", "--points", "0"), 2, "--points"),
        (("sweep", *SMALL, "--target", "pi5", "--size", "12"), 2, "no unit"),
        (("sweep", *SMALL, "--target", "pi5", "--out", "models.py/folder/f.json"), 9, "cannot be written"),
        (("sweep", *SMALL, "--target", "pi5", "--csv", "models.py/"), 9, "models.py/front.csv cannot be written"),
        (("search", *SMALL, "--target", "pi5", "--out", "models.py/"), 9, "models.py/plan.json cannot be written"),
        (("sweep", "models.py:Small", "--target", "pi5"), 2, "no data"),
        (("sweep", *SMALL, "--target", "pi5", "--epochs", "3"), 2, "--epochs without --build"),
        (("sweep", *SMALL, "--target", "pi5", "--out-dir", "d"), 2, "--out-dir without --build"),
        (("sweep", *SMALL, "--target", "pi5", "--cluster", "local"), 2, "--cluster without --build"),
        (("sweep", *SMALL, "--target", "pi5", "--build", "1", "--cluster", "here"), 2, "'here' is no cluster"),
        (("sweep", *SMALL, "--target", "pi5", "--build", "-1"), 2, "--build"),
        (
            ("sweep", "models.py:Small", "models.py:Deep", "--target", "pi5"),
            2,
            "no data for models.py:Small, models.py",
        ),
        (("sweep", *SMALL, "models.py:Deep", "--weights", "w", "--target", "pi5"), 2, "1 file of weights for 2 models"),
        (("sweep", "--weights", "w", "--target", "pi5"), 2, "--weights without a MODEL"),
    ],
)
def test_what_is_asked_wrongly_is_said(edgesdk: Run, arguments: tuple[Any, ...], code: int, says: str) -> None:
    done = edgesdk(*arguments)
    assert done.code == code and says in done.line and not done.out


@pytest.mark.parametrize("build", core((0, 1), lambda build: build == 0))
def test_models_stand_side_by_side(given: Path, edgesdk: Run, tmp_path: Path, build: int) -> None:
    """Each with points of its own, of which the best are built below one folder."""
    both, out = ("models.py:Small", "models.py:Deep"), tmp_path / "front.json"
    where = ("--target", "pi5", "--runtime", "onnxruntime", "--points", "1", "--build", str(build))
    more = ("--epochs", "0") if build else ()
    done = edgesdk("sweep", *both, "--data", "data.npz", *where, *more, "--out", out, "--csv", tmp_path / "front.csv")
    assert done.code == 0, done.err
    assert [line for line in done.out.splitlines() if line.startswith("models.py:") and "pi5: pred" not in line]
    assert done.out.endswith(f"front: {out} (edgesdk report {out} --open shows it)\n")
    contracts.check(json.loads(out.read_text()))
    front = sdk.Front.read(out)
    assert [model.name for model in front.models] == list(both) and len({model.graph for model in front.models}) == 2
    assert all(model.metric == "top-1 accuracy" and model.dense_score is not None for model in front.models)
    assert [point.number for point in front.points] == list(range(1, len(front.points) + 1))
    for model in front.models:
        own = [point for point in front.points if point.model == model.name]
        assert {"plan", "dense"} <= {point.kind for point in own}
        assert {point.plan.graph_digest for point in own} == {model.graph}
        best = [point for point in own if point.best]  # by what the same model has
        assert [p.loss for p in best] == sorted((p.loss for p in best), reverse=True) and best[-1].loss == 0
        built = [point.built.bundle for point in own if point.built is not None]
        assert [Bundle.open(bundle).plan.graph_digest for bundle in built] == [model.graph] * build
    rows = list(csv.DictReader((tmp_path / "front.csv").open()))
    assert [row["model"] for row in rows] == [point.model for point in front.points]
    page = edgesdk("report", out)
    text = out.with_suffix(".html").read_text("utf-8")
    assert page.code == 0 and 'id="models"' in text and "models.py:Deep, raspberry-pi-5" in text
    last = next(point.number for point in front.points if point.model == both[1] and point.kind == "plan")
    deploy = ("--data", "data.npz", "--from", out, "--epochs", "0", "--out", tmp_path / "b")
    refused = edgesdk("deploy", both[0], *deploy, "--point", str(last))
    assert refused.code == 2 and "the front is of another model" in refused.line
    with pytest.raises(UsageError, match="of several models"):
        front.build([1, last], f"{given / 'models.py'}:Small", str(given / "data.npz"), tmp_path / "c")


def test_models_have_names_of_their_own() -> None:
    kinds = (torch.nn.Linear(1, 1), torch.nn.ReLU(), torch.nn.Linear(1, 1))
    assert list(name_models(kinds, None)) == ["Linear 1", "ReLU", "Linear 2"]
    assert name_models(["net.py:a", "net.py:b"], [Path("a"), Path("b")]) == {
        "net.py:a": ("net.py:a", Path("a")), "net.py:b": ("net.py:b", Path("b")),
    }  # fmt: skip
    assert list(name_models(None, None)) == ["the example"]
    with pytest.raises(UsageError, match="3 files of weights for 2 models"):
        name_models(["a", "b"], [Path("a")] * 3)
    with pytest.raises(UsageError, match="no model"):
        name_models([], None)


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


@pytest.mark.parametrize(("target", "runtime"), [("pi4", "onnxruntime"), ("pi5", "litert")])
def test_what_a_predicted_front_promises_of_a_tiny_network_is_what_is_built(
    given: Path, tmp_path: Path, target: str, runtime: str
) -> None:
    """What a run takes beside its operators is most of it there: points were promised a third below what they cost."""
    network, data = str(given / "models.py:Small"), str(given / "data.npz")
    front = sdk.sweep(network, target, data, runtime=runtime, points=4)
    tried = [point.number for point in front.points if point.kind == "plan"]
    front = front.build(tried, network, data, tmp_path / "front", epochs=0)
    assert tried and not front.refused
    for number in tried:
        point = front.point(number)
        assert point.built is not None
        assert point.built.cost.latency_ms == pytest.approx(point.built.promised.latency_ms, rel=0.005)
        assert point.built.cost.latency_ms <= (1 + ROOM) * point.predicted.latency_ms


def test_each_number_of_threads_says_why_it_has_no_point(edgesdk: Run, given: Path, tmp_path: Path) -> None:
    threads = ("--threads", "1", "--threads", "4", "--runtime", "onnxruntime", "--latency", "0.0001x,2x")
    out = ("--out", tmp_path / "front.json")
    done = edgesdk("sweep", *SMALL, "--data", given / "data.npz", "--target", "pi5", *threads, *out)
    assert done.code == 0, done.err
    refused = sdk.Front.read(tmp_path / "front.json").refused
    for count in ("1 thread", "4 threads"):
        assert any(where.startswith(f"raspberry-pi-5, onnxruntime, {count}, ") for where in refused), refused


def test_shares_are_of_one_dense_model_whatever_it_runs_on(edgesdk: Run, given: Path, tmp_path: Path) -> None:
    where = ("--target", "pi4", "--target", "pi5", "--runtime", "onnxruntime", "--runtime", "ncnn")
    threads = ("--threads", "1", "--threads", "4", "--points", "2", "--json")
    front = edgesdk(
        "sweep", *SMALL, "--data", given / "data.npz", *where, *threads, "--out", tmp_path / "f.json"
    ).document
    for target in ("raspberry-pi-4", "raspberry-pi-5"):
        times = [(each["predicted"]["latency_ms"], each["ratio"], each["kind"]) for each in front["points"]
                 if each["target"] == target]  # fmt: skip
        fastest = min(ms for ms, _, kind in times if kind == "dense")
        assert [ratio for _, ratio, _ in times] == pytest.approx([ms / fastest for ms, _, _ in times], rel=0.02)
        assert sum(kind == "dense" for *_, kind in times) == 4
    sides = compare_places(front)
    assert sides is not None
    for share, points in sides.rows:
        for dense_ms, point in zip(sides.dense_ms, points, strict=True):
            assert point is None or point["predicted"]["latency_ms"] <= 1.02 * share * (dense_ms or 0.0)


def test_what_a_point_says_is_not_said_twice(edgesdk: Run, drawn: Path) -> None:
    done = edgesdk("deploy", *SMALL, "--from", drawn, "--point", "1", "--target", "pi5")
    assert done.code == 2 and "--target beside --point" in done.line
    done = edgesdk("deploy", *SMALL, "--from", drawn, "--point", "99")
    assert done.code == 2 and "no point 99" in done.line


def test_a_front_is_a_table_of_pandas(drawn: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = sdk.Front.read(drawn)
    assert repr(read).startswith(f"<Front: {len(read.points)} points of ")
    assert repr(read).endswith(" on raspberry-pi-4, raspberry-pi-5>")
    table = read.to_frame()
    assert list(table.index) == [point.number for point in read.points]
    searched = table.dropna(subset="least_loss")
    away = searched["loss"] - searched["least_loss"]
    assert len(searched) and set(searched["kind"]) == {"plan"}
    assert (away >= -1e-9).all() and (away <= searched["gap"] * searched["loss"] + 1e-9).all()
    assert table.query("best")["latency_ms"].tolist() == [p.predicted.latency_ms for p in read.points if p.best]
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UsageError, match="pandas is not installed"):
        read.to_frame()


def test_a_document_of_another_kind_or_a_newer_one_is_no_front(drawn: Path, tmp_path: Path) -> None:
    document = json.loads(drawn.read_text())
    for schema in ("edgesdk.plan/2", "edgesdk.front/9", None):
        (tmp_path / "other.json").write_text(json.dumps({**document, "schema": schema}))
        with pytest.raises(BundleError):
            sdk.Front.read(tmp_path / "other.json")
    with pytest.raises(UsageError, match="no point 0"):
        sdk.Front.read(drawn).point(0)
