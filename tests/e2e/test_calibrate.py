"""A profile of one's own board: what is wrong with a file is said, five models shift a sibling, and here is timed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from edgesdk.core.errors import BundleError, DataError, EdgeSdkError, UsageError
from edgesdk.core.plan import FP32, INT8, Option
from edgesdk.core.runtime import find_runtime
from edgesdk.core.target import target
from edgesdk.network.load import load_model
from edgesdk.network.module_graph import read
from edgesdk.price.operators import of_network
from edgesdk.price.physics import TERMS, Work, work
from edgesdk.price.posterior import Posterior, unmeasured
from edgesdk.price.prior import prior
from edgesdk.price.profile import MEASURED, SCALED, Pair, Predicted, Provenance, profile, save
from edgesdk.workflows.calibrate import calibrate

MODELS = """
from torch import nn

def net(channels, blocks, wide):
    layers, inputs = [], 3
    for index in range(blocks):
        layers += [nn.Conv2d(inputs, channels, 3, 1 + index % 2, 1), nn.ReLU()]
        layers += [nn.Conv2d(channels, channels, 3, 1, 1, groups=channels), nn.ReLU()]
        inputs, channels = channels, channels * wide
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 10))

def a(): return net(16, 2, 1)
def b(): return net(24, 3, 1)
def c(): return net(16, 4, 2)
def d(): return net(32, 2, 2)
def e(): return net(64, 2, 1)
def f(): return net(48, 3, 1)
def g(): return net(8, 5, 2)
def h(): return net(40, 4, 1)
"""
SHAPE = (3, 48, 48)
HEAD = "model,runtime,precision,threads,ms,shape"
BASE = "base-board"


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of profiles with one in it to start from, and beside it the models."""
    folder = tmp_path / "profiles"
    monkeypatch.setenv("EDGESDK_PROFILES", str(folder))
    (folder / BASE).mkdir(parents=True)
    facts = (files("edgesdk_profiles") / "raspberry-pi-4" / "device.toml").read_text()
    facts = facts.replace('name = "raspberry-pi-4"', f'name = "{BASE}"')
    lines = [line for line in facts.splitlines() if not line.startswith("aliases")]
    (folder / BASE / "device.toml").write_text("aliases = []\n" + "\n".join(lines))
    provenance = Provenance(MEASURED, "constructed", "2026-01-01", "1", (1, 4), 40)
    posterior = replace(unmeasured(prior()), deviation=np.full(len(TERMS), 0.3))
    save(
        folder / BASE / "prices.json",
        BASE,
        [Pair("litert", FP32, find_runtime("litert").kernels, posterior, provenance)],
    )
    (tmp_path / "models.py").write_text(MODELS)
    yield tmp_path


def written(folder: Path, *rows: str, head: str = HEAD) -> Path:
    path = folder / "measured.csv"
    path.write_text("\n".join([head, *rows]) + "\n")
    return path


def rows(*ms: object) -> list[str]:
    return [f"models.py:{name},litert,fp32,4,{took},3x48x48" for name, took in zip("abcdefgh", ms, strict=False)]


def took(folder: Path, posterior: Posterior) -> dict[str, float]:
    """What each model takes on a board of these constants, with four threads."""
    clock = target(BASE).chip("litert").clock_ghz
    return {name: posterior.predict(works_of(folder, name), clock)[0] for name in "abcdefgh"}


def works_of(folder: Path, name: str) -> Work:
    """What a model makes the board do, with four threads."""
    graph = read(load_model(f"{folder / 'models.py'}:{name}"), SHAPE)
    operators = [op for _, op in of_network(graph, {layer.name: Option() for layer in graph.layers})]
    return work(operators, target(BASE).chip("litert"), find_runtime("litert").kernels, 4)


def test_five_models_make_a_profile_that_prices_the_others(own: Path) -> None:
    random = np.random.default_rng(0)
    constants = prior().log_median + np.log(1.6) + 0.2 * random.standard_normal(len(TERMS))
    truth = took(own, replace(unmeasured(prior()), log_constants=constants))
    five = rows(*(f"{truth[name]:.4f}" for name in "abcde"))
    made = calibrate("my-board", base=BASE, measurements=written(own, *five))
    priced = profile(target("my-board"))
    assert priced.target.runtimes == ("litert",) and priced.target.precisions == {"litert": (FP32,)}
    (pair,) = priced.pairs
    assert pair.provenance.kind == SCALED and f"5 models; base {BASE}" in pair.provenance.source
    ((_, error),) = pair.provenance.errors
    assert error < 0.15
    prices, before = Predicted(priced, "litert", 4), Predicted(profile(target(BASE)), "litert", 4)
    off, off_before = [], []
    for name in "fgh":
        graph = read(load_model(f"{own / 'models.py'}:{name}"), SHAPE)
        operators = [op for _, op in of_network(graph, {})]
        off.append(abs(prices.interval(operators)[0] / truth[name] - 1))
        off_before.append(abs(before.interval(operators)[0] / truth[name] - 1))
    assert np.mean(off) < 0.1 < 0.25 < np.mean(off_before)
    assert made.target == priced.target


@pytest.mark.parametrize(("also", "said"), [(("a", 3.0), "takes"), (("e", 1.5), "takes"), (("b", 1.1), "")])
def test_figures_that_contradict_each_other_are_in_doubt_and_the_interval_has_it(
    own: Path, also: tuple[str, float], said: str
) -> None:
    truth = took(own, unmeasured(prior()))
    five = rows(*(f"{truth[name]:.4f}" for name in "abcde"))
    name, times = also
    again = f"models.py:{name},litert,fp32,4,{times * truth[name]:.4f},3x48x48"
    (clear,) = calibrate("clear", base=BASE, measurements=written(own, *five)).pairs
    (pair,) = calibrate("other", base=BASE, measurements=written(own, *five, again)).pairs
    apart = pair.posterior.extra > 0
    assert (said in pair.provenance.doubt) and bool(pair.provenance.doubt) == apart == bool(said)
    if said:
        line = 2 + "abcde".index(name)
        assert f"models.py:{name} takes" in pair.provenance.doubt and f"(lines {line} and 7)" in pair.provenance.doubt
        item = works_of(own, "f")
        assert pair.posterior.predict(item, 1.0)[1] > np.hypot(clear.posterior.predict(item, 1.0)[1], np.log(times) / 2)


def test_models_that_do_not_tell_each_other_are_said_to_and_the_interval_holds_them(own: Path) -> None:
    truth = took(own, unmeasured(prior()))
    odd = {name: truth[name] * (6 if name in "bd" else 1) for name in "abcde"}
    (pair,) = calibrate("odd", base=BASE, measurements=written(own, *rows(*(f"{odd[n]:.4f}" for n in "abcde")))).pairs
    assert "off what the others say of it" in pair.provenance.doubt
    clock = target(BASE).chip("litert").clock_ghz
    low, high = pair.posterior.interval(works_of(own, "f"), clock)[1:]
    assert low < truth["f"] < high and high / low > 4


def test_a_profile_is_kept_unless_force_replaces_it(own: Path) -> None:
    path = written(own, *rows(1, 2, 3, 4, 5))
    calibrate("my-board", base=BASE, measurements=path)
    before = (own / "profiles" / "my-board" / "prices.json").read_text()
    path = written(own, *rows(10, 20, 30, 40, 50))
    with pytest.raises(BundleError, match="my-board exists: give --force"):
        calibrate("my-board", base=BASE, measurements=path)
    assert (own / "profiles" / "my-board" / "prices.json").read_text() == before
    calibrate("my-board", base=BASE, measurements=path, force=True)
    assert (own / "profiles" / "my-board" / "prices.json").read_text() != before
    assert sorted(path.name for path in (own / "profiles").iterdir()) == [BASE, "my-board"]


@pytest.mark.parametrize(
    ("head", "row", "said"),
    [
        ("model,runtime,precision,threads,us", "m.onnx,litert,fp32,4,900", "line 1 .* column us .* milliseconds"),
        ("model,runtime,precision,threads,latency_s", "m.onnx,litert,fp32,4,1", "line 1 .* latency_s .* milliseconds"),
        ("model,runtime,threads,ms", "m.onnx,litert,4,9", "line 1 .* lacks the column precision"),
        (HEAD, "m.onnx,litert,fp32,4,12 ms,", "line 7 .* '12 ms': write the milliseconds as a number alone"),
        (HEAD, "m.onnx,litert,fp32,4,12s,", "line 7 .* '12s': write the milliseconds"),
        (HEAD, "m.onnx,litert,fp32,4,,", "line 7 .* ms is empty"),
        (HEAD, "m.onnx,litert,fp32,4,-3,", "line 7 .* no model takes -3 ms"),
        (HEAD, "m.onnx,litert,fp32,4,0,", "line 7 .* no model takes 0 ms"),
        (HEAD, "m.onnx,litert,fp32,4,nan,", "line 7 .* no model takes nan ms"),
        (HEAD, "m.onnx,litert,fp32,4,1e9,", "line 7 .* no model takes 1e9 ms"),
        (HEAD, "m.onnx,tvm,fp32,4,3,", "line 7 .* no runtime 'tvm': write one of .*litert"),
        (HEAD, "m.onnx,litert,float,4,3,", "line 7 .* no precision 'float': write one of fp32"),
        (HEAD, "m.onnx,litert,fp32,four,3,", "line 7 .* 'four' is no number of threads"),
        (HEAD, "m.onnx,litert,fp32,0,3,", "line 7 .* '0' is no number of threads"),
        (HEAD, "m.onnx,litert,fp32,4,3,3*48", "line 7 .* '3\\*48' is no shape"),
        (HEAD, "m.onnx,litert,fp32,4,3,", "line 7 .*m.onnx cannot be read"),
        (HEAD, "m.pt,litert,fp32,4,3,", "line 7 .* 'm.pt' is no model"),
        (HEAD, "models.py:none,litert,fp32,4,3,3x48x48", "line 7 .* has no 'none'"),
        (HEAD, "models.py:a,litert,fp32,4,3,", "line 7 .* has no shape"),
    ],
)  # fmt: skip
def test_a_wrong_measurement_is_named_with_its_line(own: Path, head: str, row: str, said: str) -> None:
    path = written(own, *rows(1, 2, 3, 4, 5), row, head=head)
    with pytest.raises(DataError, match=said):
        calibrate("my-board", base=BASE, measurements=path)
    assert not (own / "profiles" / "my-board").exists()


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (rows(1, 2, 3, 4), "has 4 measurements: 5 are needed"),
        ([], "has 0 measurements: 5 are needed"),
        ([*rows(1, 2, 3, 4), rows(1)[0]], "has 4 models for litert with fp32: measure 5 at least"),
        ([row.replace("litert", "ncnn") for row in rows(1, 2, 3, 4, 5)], "nothing is known of ncnn"),
        ([row.replace("fp32", "int8") for row in rows(1, 2, 3, 4, 5)], "nothing is known of litert with int8"),
    ],
)
def test_too_few_models_or_an_unknown_pair_are_refused(own: Path, lines: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        calibrate("my-board", base=BASE, measurements=written(own, *lines))
    assert not (own / "profiles" / "my-board").exists()


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("My Board", {}, "no name for a profile"),
        ("../board", {}, "no name for a profile"),
        ("raspberry-pi-5", {}, "comes with: choose another"),
        ("pi4", {}, "comes with: choose another"),
        ("my-board", {"base": BASE}, "give --measurements too"),
        ("my-board", {"runtime": "ncnn"}, "ncnn cannot be timed here"),
        ("my-board", {"measurements": "nowhere.csv"}, "nowhere.csv cannot be read"),
    ],
)
def test_what_cannot_be_made_is_refused_before_anything_is_timed(
    own: Path, name: str, options: dict[str, str], said: str
) -> None:
    with pytest.raises(EdgeSdkError, match=said):
        calibrate(name, **options)  # type: ignore[arg-type]


def test_the_machine_at_hand_is_timed_and_judged_on_networks_that_were_not_fitted(own: Path) -> None:
    shares: list[float] = []
    made = calibrate("here", share=0.1, tell=lambda what, share: shares.append(share) if share is not None else None)
    assert shares and all(0 <= share <= 1 for share in shares)
    priced = profile(target("here"))
    assert priced.target == made.target and not priced.target.measured
    assert [(pair.runtime, pair.precision) for pair in priced.pairs] == [("onnxruntime", FP32), ("onnxruntime", INT8)]
    for pair in priced.pairs:
        assert pair.provenance.kind == MEASURED and pair.provenance.threads == (1,)
        ((held, error),) = pair.provenance.errors
        assert "not fitted: residual" in held and error < 1.0
    assert Predicted(priced, "onnxruntime", 1).fixed_ms > 0
