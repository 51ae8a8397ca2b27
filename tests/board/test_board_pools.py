"""Several boards over SSH at once: installed on in stages, and back again where one of them fails."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import contracts
import pytest
from board_bundles import bundle, identifier
from board_fleet import Fleet, meanwhile
from board_machine import ROOT, wait_for
from slow import core

from edgesdk.core.errors import BundleError, DeviceError, UsageError
from edgesdk.core.rollout import Rollout
from edgesdk.devices.boards import Boards, list_differences
from edgesdk.workflows.install import install, rollback

HEALTH = dict(event=["open"], path=f"{ROOT}/versions/*/*", child=True)
SWITCH = dict(event=["os.rename"], path=f"{ROOT}/current")
PRUNING = dict(event=["os.remove"], path=f"{ROOT}/versions/*")


@pytest.fixture
def two(three: Fleet, two_installed: Path) -> Fleet:
    """The boards with version 2 running and version 1 before it, each."""
    for board in three.boards.values():
        shutil.copytree(two_installed, board.root, symlinks=True)
    return three


def put(fleet: Fleet, folder: Path, **how: Any) -> Rollout:
    return install(folder, fleet.pool, **how)


def states(rollout: Rollout) -> list[str]:
    return [board.state for board in rollout.boards]


def settled(fleet: Fleet) -> None:
    """Nothing works on, and nothing is left but whole versions."""
    for board in fleet.boards.values():
        wait_for(lambda board=board: not board.processes())
        assert board.rest() == []


def test_it_is_installed_on_the_canary_first_and_then_on_the_others(two: Fleet, bundles) -> None:
    begun: list[str] = []
    done = put(two, bundles(3), tell=lambda stage, share: begun.append(stage))
    assert (states(done), done.exit_code) == (["installed"] * 3, 0)
    assert [board.stage for board in done.boards] == [1, 2, 2]
    new, old = identifier(bundles(3)), identifier(bundles(2))
    assert {(board.version, board.previous) for board in done.boards} == {(new, old)}
    assert set(two.runs().values()) == {new}
    sending = [stage for stage in begun if stage.startswith("sending the bundle")]
    switching = [stage for stage in begun if stage.startswith("installing") and "switching" in stage]
    assert sending[0] == "sending the bundle: a" and {*sending} == {f"sending the bundle: {n}" for n in "abc"}
    assert begun.index(switching[0]) < min(begun.index(f"sending the bundle: {n}") for n in "bc")
    again = put(two, bundles(3), canary=3)
    assert states(again) == ["unchanged"] * 3 and [board.stage for board in again.boards] == [1, 1, 1]
    back = rollback(two.pool)
    assert (states(back), back.exit_code) == (["rolled back"] * 3, 0)
    assert set(two.runs().values()) == {old}
    settled(two)


POINTS = {"kill": HEALTH, "denied": SWITCH, "reboot": PRUNING}
CORE = {("a", "denied"), ("b", "kill"), ("b", "reboot")}


@pytest.mark.parametrize(
    ("name", "mode"), core([(name, mode) for name in "ab" for mode in POINTS], lambda *case: case in CORE)
)
def test_where_one_fails_each_that_was_switched_goes_back(two: Fleet, bundles, name: str, mode: str) -> None:
    two[name].fault(mode, **POINTS[mode])
    done = put(two, bundles(3), keep=2)
    assert two[name].fired
    switched = mode == "reboot"  # and then lost: it is asked again, and goes back like the others
    expected = {"a": ["failed", "not begun", "not begun"], "b": ["rolled back", "failed", "rolled back"]}[name]
    expected["abc".index(name)] = "rolled back" if switched else "failed"
    assert states(done) == expected
    assert done.exit_code == (9 if mode == "denied" else 6)
    said = next(board for board in done.boards if board.device == name)
    assert said.fact and said.remedy
    for board in two.boards.values():
        board.mend()
    assert set(two.runs().values()) == {identifier(bundles(2))}
    assert {board.version for board in done.boards} == {identifier(bundles(2))}
    assert states(put(two, bundles(3))) == ["installed"] * 3
    settled(two)


def test_a_board_that_is_gone_in_the_middle_is_said_to_be_unknown_and_the_others_go_back(two: Fleet, bundles) -> None:
    two["c"].fault("wait", seconds=60, **HEALTH)
    with meanwhile(lambda: two["c"].fired, lambda: two.gone("c")):
        done = put(two, bundles(3))
    assert states(done) == ["rolled back", "rolled back", "unknown"] and done.exit_code == 6
    assert done.boards[2].version is None and "lost" in str(done.boards[2].fact)
    two["c"].up()
    two["c"].mend()
    assert set(two.runs().values()) == {identifier(bundles(2))}


def test_a_board_that_does_not_answer_is_left_out_and_another_is_the_canary(two: Fleet, bundles) -> None:
    two.gone("a")
    done = put(two, bundles(3))
    assert states(done) == ["out of reach", "installed", "installed"] and done.exit_code == 6
    assert [board.stage for board in done.boards] == [None, 1, 2]
    assert "does not answer" in str(done.boards[0].fact)
    two["a"].up()
    assert two["a"].runs() == identifier(bundles(2))
    assert states(put(two, bundles(3))) == ["installed", "unchanged", "unchanged"]
    for name in ("a", "b", "c"):
        two.gone(name)
    with pytest.raises(DeviceError, match="no board of pool:fleet is left of a, b, c"):
        put(two, bundles(4))


def test_what_nothing_ran_before_cannot_go_back_and_says_so(three: Fleet, bundles) -> None:
    three["b"].fault("kill", **HEALTH)
    done = put(three, bundles(1))
    assert states(done) == ["not rolled back", "failed", "not rolled back"]
    assert "nothing ran there before" in str(done.boards[0].fact)
    assert three["a"].runs() == identifier(bundles(1)) and done.boards[1].version is None


def test_an_installation_waits_for_the_one_that_holds_a_board(two: Fleet, bundles) -> None:
    said: list[str] = []
    with two["b"].holding(two["b"].root / ".lock") as held:

        def tell(stage: str, share: float | None) -> None:
            said.append(stage)
            if stage == "installing: b waiting":
                held.kill()

        done = put(two, bundles(3), canary=3, tell=tell)
    assert "installing: b waiting" in said and states(done) == ["installed"] * 3


def test_a_bundle_that_does_not_fit_goes_no_further_than_the_canary(two: Fleet, tmp_path: Path, bundles) -> None:
    done = put(two, bundle(tmp_path / "b", 3, off_by=1.0))
    assert states(done) == ["failed", "not begun", "not begun"] and "recorded sample" in str(done.boards[0].fact)
    assert set(two.runs().values()) == {identifier(bundles(2))}
    settled(two)


def test_clocks_that_differ_decide_nothing(two: Fleet, bundles) -> None:
    two["a"].fault("clock", seconds=-1.7e9)
    two["b"].fault("clock", seconds=1e9)
    done = put(two, bundles(3), canary=2)
    assert states(done) == ["installed"] * 3
    assert states(rollback(two.pool)) == ["rolled back"] * 3
    with pytest.raises(UsageError, match="4 of 3 boards"):
        put(two, bundles(3), canary=4)
    with pytest.raises(UsageError, match="is one board"):
        install(bundles(3), two.device("a"), canary=1)


def test_an_interruption_ends_what_runs_on_every_board(two: Fleet, bundles) -> None:
    for name in "bc":
        two[name].fault("wait", seconds=60, **HEALTH)
    both = meanwhile(lambda: two["b"].fired and two["c"].fired, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt), both:
        put(two, bundles(3))
    for board in two.boards.values():
        wait_for(lambda board=board: not board.processes())
        board.mend()
    assert two["b"].runs() == two["c"].runs() == identifier(bundles(2))


def test_in_what_boards_differ_is_said(three: Fleet) -> None:
    with Boards(three.pool) as boards:
        facts = boards.probe()
    assert list_differences(facts) == []  # they are this machine, three times
    own = facts["b"]
    at = [{"core": 0, "mhz": 600.0, "maximum_mhz": 1500.0}]
    facts["b"] = {
        **own,
        "cores": 64,
        "conditions": {**own["conditions"], "frequencies": at, "power_mode": "15W"},
        "runners": {"onnxruntime": "1.0"},
        "features": [*own["features"], "x"],
    }
    told = " | ".join(list_differences(facts))
    assert "clock is" in told and "1500 MHz on b" in told and "15W on b" in told
    assert "cores is" in told and "64 on b" in told and "1.0 on b" in told and "none more on a and c, x on b" in told
    assert "onnxruntime" not in " ".join(list_differences(facts, ["openvino"]))


def test_the_command_line_says_where_each_stands(edgesdk, two: Fleet, bundles) -> None:
    shown = edgesdk("device", "install", "pool:lab", bundles(3), "--canary", "2")
    assert "pool:lab: 3 installed" in shown and shown.count(identifier(bundles(3))) == 3
    told = contracts.loaded(edgesdk("device", "rollback", "pool:lab", "--json"))
    assert [board["state"] for board in told["boards"]] == ["rolled back"] * 3
    two["b"].fault("kill", **HEALTH)
    failed = contracts.loaded(edgesdk("device", "install", "pool:lab", bundles(3), "--json", code=6))
    assert [board["state"] for board in failed["boards"]] == ["rolled back", "failed", "rolled back"]
    shown = edgesdk("benchmark", bundles(1), "--device", "a", "--device", "b", "--mode", "brief", "-q")
    assert "boards, side by side" in shown and "(slowest)" in shown and "c" not in shown.split()
    facts = contracts.loaded(edgesdk("device", "probe", "pool:lab", "--json"))
    assert list(facts["boards"]) == ["a", "b", "c"] and facts["differences"] == [] and facts["out_of_reach"] == {}
    two.gone("c")
    assert "c does not answer" in edgesdk("device", "probe", "pool:lab", code=6)
    with pytest.raises(BundleError):
        install(bundles(1).parent, two.pool)
