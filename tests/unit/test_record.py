"""Records: what is written is read back, what is damaged is refused, and a file is written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from graphs import plans, random_graph
from hypothesis import given
from hypothesis import strategies as st

from edgesdk.core.errors import BundleError, StorageError
from edgesdk.core.graph import Graph
from edgesdk.core.plan import Plan
from edgesdk.core.report import Prediction
from edgesdk.core.serialize import digest, dumps, from_json, to_json, write

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@dataclass(frozen=True)
class Pair:
    count: int
    ratio: float
    name: str | None = None


@dataclass(frozen=True)
class Nest:
    pairs: tuple[Pair, ...]
    size: tuple[int, int]
    by_width: Mapping[int, float]
    is_good: bool = True


NEST = Nest((Pair(1, 0.5, "a"), Pair(2, 1.0)), (3, 4), {8: 0.25}, False)


@given(plans())
def test_a_plan_is_read_back_as_it_was_written(plan: Plan) -> None:
    assert from_json(Plan, json.loads(dumps(plan))) == plan


@given(st.integers(0, 10**9))
def test_a_graph_is_read_back_as_it_was_written(seed: int) -> None:
    graph = random_graph(seed)
    again = from_json(Graph, json.loads(dumps(graph)))
    assert again == graph and again.digest == graph.digest


def test_nested_records_keep_their_types() -> None:
    again = from_json(Nest, json.loads(dumps(NEST)))
    assert again == NEST
    assert type(again.pairs[1].ratio) is float and list(again.by_width) == [8]


def test_unknown_fields_are_left_out_and_defaults_filled_in() -> None:
    assert from_json(Pair, {"count": 1, "ratio": 2, "colour": "red"}) == Pair(1, 2.0)


def renamed(value: Any, now: str, before: str) -> Any:
    """A document with a key as it was called before."""
    if isinstance(value, dict):
        return {before if key == now else key: renamed(item, now, before) for key, item in value.items()}
    return [renamed(item, now, before) for item in value] if isinstance(value, list) else value


@given(plans())
def test_fields_are_read_under_their_former_names(plan: Plan) -> None:
    document = to_json(plan)
    assert from_json(Plan, renamed(document, "rejected", "struck")) == from_json(Plan, document)
    assert from_json(Plan, {**document, "struck": []}) == from_json(Plan, document)  # the name of today wins


def test_a_prediction_of_before_is_read() -> None:
    figures = dict(median_ms=1.0, low_ms=0.5, high_ms=2.0, peak_memory_bytes=8.0, runtime_memory_bytes=None)
    rests_on = dict(provenance={"int8": "measured"}, sources=("a",), notes=("b",))
    made = Prediction("deployed", "0", 9, "litert", "not stated", 1, **figures, **rests_on)  # type: ignore[arg-type]
    assert from_json(Prediction, renamed(to_json(made), "provenance", "standing")) == made


def changed(**fields: Any) -> dict[str, Any]:
    return {**to_json(NEST), **fields}


@pytest.mark.parametrize(
    "value",
    [
        None,
        3,
        "count ratio",
        [1, 2],
        {},
        {name: value for name, value in to_json(NEST).items() if name != "size"},
        changed(is_good=1),
        changed(size=[1]),
        changed(size=[1, 2, 3]),
        changed(size=["1", 2]),
        changed(size=[1.0, 2]),
        changed(size="12"),
        changed(pairs="ab"),
        changed(pairs={"count": 1}),
        changed(pairs=[{"count": True, "ratio": 1.0}]),
        changed(pairs=[{"count": 1, "ratio": "1"}]),
        changed(pairs=[{"count": 1, "ratio": True}]),
        changed(pairs=[{"count": 1, "ratio": None}]),
        changed(pairs=[{"count": 1, "ratio": 1.0, "name": 5}]),
        changed(by_width=[1, 2]),
        changed(by_width={"eight": 0.5}),
        changed(by_width={"8": "0.5"}),
    ],
)
def test_what_is_not_such_a_record_is_refused(value: Any) -> None:
    with pytest.raises(BundleError, match="not a Nest") as raised:
        from_json(Nest, value)
    assert "\n" not in str(raised.value)


@given(JSON)
def test_plain_json_stays_as_it_is(value: Any) -> None:
    assert to_json(value) == value
    assert json.loads(dumps(value)) == value and dumps(value).endswith("\n")


def test_a_digest_is_that_of_the_content_alone() -> None:
    assert digest(b"bytes") == hashlib.sha256(b"bytes").hexdigest()
    assert digest({"a": 1, "b": (2, 3)}) == digest({"b": [2, 3], "a": 1})
    assert digest(NEST) == digest(from_json(Nest, json.loads(dumps(NEST))))
    assert digest(NEST) != digest(Nest(NEST.pairs, (3, 5), NEST.by_width, NEST.is_good))


@given(st.binary() | st.text())
def test_content_is_written_as_it_is(tmp_path_factory: pytest.TempPathFactory, content: bytes | str) -> None:
    path = tmp_path_factory.mktemp("record") / "some" / "folder" / "file"
    write(path, content)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    write(path, "before")
    temporary = tmp_path / f".plan.json.{os.getpid()}-{threading.get_ident()}"
    temporary.symlink_to("/dev/full")  # what is written there meets a full disk
    with pytest.raises(StorageError, match="No space left on device") as raised:
        write(path, "after")
    assert str(path) in raised.value.fact
    assert path.read_text() == "before"
    assert [entry.name for entry in tmp_path.iterdir()] == ["plan.json"]


def test_a_write_that_is_cut_short_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "plan.json"
    write(path, "before")

    def interrupted(_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(StorageError, match="Input/output error"):
        write(path, "after")
    assert path.read_text() == "before"
    assert [entry.name for entry in tmp_path.iterdir()] == ["plan.json"]


def test_a_path_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file" / "below", tmp_path / "file" / "far" / "below"):
        with pytest.raises(StorageError, match="cannot write"):
            write(path, "content")
    (tmp_path / "folder" / "full").mkdir(parents=True)
    with pytest.raises(StorageError, match="Is a directory"):
        write(tmp_path / "folder", "content")
    assert (tmp_path / "file").read_text() == "x"
    assert {entry.name for entry in tmp_path.iterdir()} == {"file", "folder"}


def test_several_threads_write_a_file_each_whole(tmp_path: Path) -> None:
    """As the boards of a pool do, each in a thread of its own."""
    path, contents = tmp_path / "prices.json", [str(number) * 50_000 for number in range(8)]
    with ThreadPoolExecutor(len(contents)) as threads:
        for done in [threads.submit(write, path, content) for content in contents * 8]:
            done.result()  # raises where one took the other's temporary file
            assert path.read_text() in contents
    assert list(tmp_path.iterdir()) == [path]
