"""Targets: what the profiles say is complete, a user's own come first, and what is wrong with one is said."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from edgesdk.core.errors import DeviceError, UsageError
from edgesdk.core.plan import FP32, INT8
from edgesdk.core.runtime import RUNTIMES, exportable, read_recipe
from edgesdk.core.target import SCHEMA, Chip, Fact, prices_text, target, targets, user_folder
from edgesdk.price.profile import profile

SHIPPED = (
    "jetson-agx-orin", "jetson-agx-xavier", "jetson-nano", "jetson-orin-nano", "jetson-orin-nx",
    "raspberry-pi-3b-plus", "raspberry-pi-4", "raspberry-pi-5", "raspberry-pi-zero-2-w",
    "x86", "x86-avx2", "x86-avx512-vnni",
)  # fmt: skip
SAYS = f'schema = "{SCHEMA}"'
OWN = f"""
schema = "{SCHEMA}"
name = "NAME"
title = "A board of one's own"
aliases = []
runtimes = ["onnxruntime"]

[precisions]
onnxruntime = ["fp32"]

[chips.cpu]
clock_ghz = 1.5
cores = 2
bandwidth_gbps = 4.0
cache_kb = 512.0
macs_per_cycle = {{ fp32 = 4.0 }}

[[facts]]
fact = "processor"
value = "two cores"
source = "its data sheet"
"""
Writer = Callable[..., Path]


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Writer:
    """Write a profile into the user's folder, the only one there is: its name, and what is replaced in its text."""
    monkeypatch.setenv("EDGESDK_PROFILES", str(tmp_path))

    def write(name: str, *changes: tuple[str, str]) -> Path:
        text = OWN.replace("NAME", name)
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "device.toml").write_text(text, "utf-8")
        return tmp_path / name / "device.toml"

    return write


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No profile of the user's own."""
    monkeypatch.setenv("EDGESDK_PROFILES", str(tmp_path / "none"))


@pytest.mark.usefixtures("shipped")
def test_every_target_that_was_asked_for_is_there() -> None:
    assert tuple(targets()) == SHIPPED


@pytest.mark.usefixtures("shipped")
@pytest.mark.parametrize("name", SHIPPED)
def test_every_target_is_complete_and_says_where_its_facts_come_from(name: str) -> None:
    entry = target(name)
    assert entry.name == name and entry.title
    assert entry.runtimes and set(entry.runtimes) <= set(RUNTIMES)
    assert set(entry.precisions) == set(entry.runtimes)
    for precisions in entry.precisions.values():
        assert FP32 in precisions and set(precisions) <= {FP32, INT8}
    assert set(entry.half) <= set(entry.runtimes)
    assert entry.measured == (name == "x86")
    assert entry.facts and all(fact.fact.strip() and fact.value.strip() for fact in entry.facts)
    origins = ("https://", "measured", "the same measurement", "this project", "derived from", "follows from")
    for fact in entry.facts:
        named = re.search(r"(19|20)\d\d|\d+\.\d+", fact.source)  # a release, a version, a year
        assert any(word in fact.source for word in origins) or named, fact


@pytest.mark.usefixtures("shipped")
@pytest.mark.parametrize("name", [name for name in SHIPPED if name != "x86"])
def test_what_a_target_offers_to_the_search_has_a_chip_and_prices(name: str) -> None:
    entry = target(name)
    assert set(entry.chips) <= {"cpu", *entry.runtimes} and "cpu" in entry.chips
    pairs = {(pair.runtime, pair.precision) for pair in profile(entry).pairs}
    assert pairs and {runtime for runtime, _ in pairs} <= set(entry.runtimes)
    for runtime, precision in pairs:
        assert precision in entry.chip(runtime).macs_per_cycle
    for runtime in ("onnxruntime", "tensorrt"):  # what a bundle can be made for
        if any(listed == runtime for listed, _ in pairs):
            for precision in entry.precisions[runtime]:
                assert (runtime, entry.runs_as(runtime, precision)) in pairs


@pytest.mark.usefixtures("shipped")
def test_no_two_targets_answer_to_one_name() -> None:
    names = [name for entry in targets().values() for name in (entry.name, *entry.aliases)]
    assert len(names) == len(set(names)) and all(name == name.strip().lower() for name in names)


@pytest.mark.usefixtures("shipped")
@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("raspberry-pi", "raspberry-pi-5"),
        ("jetson", "jetson-orin-nano"),
        ("raspberry-pi-3b+", "raspberry-pi-3b-plus"),
        *((form, "x86") for form in ("x86", "X86", " x86-64 ", "x86_64", "AMD64")),
    ],
)
def test_a_target_answers_to_its_aliases_in_any_case(alias: str, name: str) -> None:
    assert target(alias).name == name


@pytest.mark.usefixtures("shipped")
@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("rpi4", "raspberry-pi-4"), ("RPi4", "raspberry-pi-4"), ("pi-4", "raspberry-pi-4"), ("rpi5", "raspberry-pi-5"),
        ("rpi-3", "raspberry-pi-3b-plus"), ("rpi-zero-2-w", "raspberry-pi-zero-2-w"), ("orin-agx", "jetson-agx-orin"),
    ],
)  # fmt: skip
def test_what_boards_are_called_for_short_is_the_target_by_its_own_name(typed: str, name: str) -> None:
    assert target(typed).name == name


@pytest.mark.parametrize("name", ["", "x87", "x86 64", "../x86", "jetson nano 9"])
def test_an_unknown_target_is_refused_with_those_that_exist(name: str) -> None:
    with pytest.raises(UsageError) as raised:
        target(name)
    assert repr(name) in raised.value.fact
    assert all(alias in raised.value.remedy for alias in SHIPPED)
    assert raised.value.exit_code == 2


def test_a_fact_without_a_source_is_refused() -> None:
    with pytest.raises(ValueError, match="lacks a value or a source"):
        Fact("cores", "2", "")


@pytest.mark.parametrize(
    "changes",
    [
        {"clock_ghz": -1.0},
        {"clock_ghz": 0.0},
        {"clock_ghz": float("nan")},
        {"cores": 0},
        {"bandwidth_gbps": float("inf")},
        {"cache_kb": -512.0},
        {"vector_bytes": 0.0},
        {"macs_per_cycle": {}},
        {"macs_per_cycle": {INT8: 8.0}},
        {"macs_per_cycle": {FP32: -8.0}},
    ],
)
def test_a_chip_that_cannot_be_is_refused(changes: dict[str, object]) -> None:
    sound: dict[str, object] = dict(
        clock_ghz=1.0, cores=4, macs_per_cycle={FP32: 8.0}, bandwidth_gbps=4.0, cache_kb=512.0
    )
    assert Chip(**sound).lanes(INT8) == 8.0  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="above zero"):
        Chip(**{**sound, **changes})  # type: ignore[arg-type]


def test_a_runtime_uses_its_own_chip_and_may_run_float_in_half() -> None:
    entry = target("jetson-orin-nano")
    assert entry.chip("tensorrt") is entry.chips["tensorrt"] is not entry.chip("litert")
    assert entry.chip("litert") is entry.chip("onnxruntime") is entry.chips["cpu"]
    assert [entry.runs_as("tensorrt", p) for p in (FP32, INT8)] == ["fp16", INT8]
    assert [entry.runs_as("onnxruntime", p) for p in (FP32, INT8)] == [FP32, INT8]
    with pytest.raises(UsageError, match="nothing is known of the chip of x86"):
        target("x86").chip("onnxruntime")


def test_a_profile_of_ones_own_is_read(own: Writer) -> None:
    path = own("my-board")
    assert user_folder() == path.parent.parent
    entry = target("My-Board")
    assert (entry.name, entry.title, entry.chip("onnxruntime").cores) == ("my-board", "A board of one's own", 2)
    assert entry.facts == (Fact("processor", "two cores", "its data sheet"),)
    assert tuple(targets()) == tuple(sorted((*SHIPPED, "my-board")))
    assert prices_text("my-board") is None and profile(entry).pairs == ()
    (path.parent / "prices.json").write_text("{}", "utf-8")
    assert prices_text("my-board") == "{}"


def test_a_profile_of_ones_own_hides_the_one_that_came_along(own: Writer) -> None:
    before = target("raspberry-pi-5")
    path = own("raspberry-pi-5")
    assert target("raspberry-pi-5").title == "A board of one's own" != before.title
    assert tuple(targets()) == SHIPPED
    assert prices_text("raspberry-pi-5") is None  # those that came along are of another chip
    (path.parent / "prices.json").write_text("mine", "utf-8")
    assert prices_text("raspberry-pi-5") == "mine"


def test_what_lies_beside_profiles_is_none(own: Writer) -> None:
    folder = own("my-board").parent.parent
    (folder / "notes.txt").write_text("a file", "utf-8")
    (folder / "empty").mkdir()
    assert tuple(targets()) == tuple(sorted((*SHIPPED, "my-board")))


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (SAYS, f"schema = {SCHEMA.version + 1}", "update edgesdk"),
        (SAYS, f'schema = "edgesdk.target/{SCHEMA.version + 1}"', "update edgesdk"),
        (SAYS, "schema = 1", "write it anew with edgesdk calibrate"),
        (SAYS, 'schema = "two"', "write it anew with edgesdk calibrate"),
        (SAYS, "", "is damaged"),
        ("[precisions]", "[precisions", "is damaged"),
        ("[chips.cpu]", "", "is damaged"),
        ("clock_ghz = 1.5", "clock_ghz = -1.5", "above zero"),
        ("clock_ghz = 1.5", "clock_ghz = nan", "above zero"),
        ("clock_ghz = 1.5", 'clock_ghz = "fast"', "is damaged"),
        ("cores = 2", "cores = 0", "above zero"),
        ("cores = 2\n", "", "lacks cores"),
        ("fp32 = 4.0", "fp32 = -4.0", "above zero"),
        ('runtimes = ["onnxruntime"]', 'runtimes = "onnxruntime"', "is not a list"),
        ('source = "its data sheet"', 'source = ""', "lacks a value or a source"),
        ('source = "its data sheet"', "", "lacks source"),
        ('title = "A board of one\'s own"\n', "", "lacks title"),
    ],
)
def test_a_damaged_profile_is_said_to_be(own: Writer, old: str, new: str, says: str) -> None:
    own("my-board", (old, new))
    with pytest.raises(DeviceError) as raised:
        targets()
    assert raised.value.fact.startswith("the profile my-board ") and raised.value.remedy
    assert says in str(raised.value) and "\n" not in str(raised.value)
    assert raised.value.exit_code == 6


def test_profiles_of_before_are_read(own: Writer) -> None:
    own("my-board")
    now = target("my-board")
    own("my-board", (SAYS, "schema = 2"))
    assert target("my-board") == now


def test_a_profile_that_is_no_text_is_damaged(own: Writer) -> None:
    own("my-board").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DeviceError, match="the profile my-board is damaged"):
        target("my-board")


def test_every_runtime_of_a_bundle_has_a_recipe_that_says_how_to_measure_it() -> None:
    for runtime in exportable():
        recipe = read_recipe(runtime)
        assert recipe.get("runtime", runtime) == runtime
        lines = [line.format(threads=3) for line in recipe["measure"]]
        assert lines and all(line.strip() == line and "\n" not in line and "{" not in line for line in lines)
        assert all(isinstance(note, str) and note for note in recipe["notes"])
        assert any("model" in line or "run.py" in line for line in lines)


def test_a_recipe_measures_with_the_threads_of_the_plan() -> None:
    recipe = read_recipe("onnxruntime")
    assert any("--threads 3" in line.format(threads=3) for line in recipe["measure"])
