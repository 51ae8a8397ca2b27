"""Energy that nothing there can measure is refused before anything is read, judged, priced or exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from running import Run

from edgesdk.core.errors import DeviceError
from edgesdk.devices.energy import check_own_meter

SMALL = ("models.py:Small", "--data", "data.npz")
LESS = "give a --device that has a meter (RAPL, INA3221 or hwmon), or bound something else"


@pytest.mark.parametrize("command", ["deploy", "search"])
@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--target", "pi4"), "raspberry-pi-4 is predicted, and no profile knows what a run takes in energy: " + LESS),
        (("--target", "orin-nano", "--runtime", "tensorrt"), "jetson-orin-nano is predicted, and no profile knows"),
        (("--target", "pi4", "--device", "local", "--runtime", "tensorrt"), "the energy of a run is not told for tens"),
        (("--target", "x86", "--device", "ssh://nowhere.invalid"), "nowhere.invalid"),
    ],
)
def test_a_bound_that_cannot_be_kept_is_refused_at_once(
    given: Path, monkeypatch: pytest.MonkeyPatch, edgesdk: Run, command: str, flags: tuple[str, ...], says: str
) -> None:
    monkeypatch.chdir(given)
    done = edgesdk(command, *SMALL, "--energy", "5mJ", *flags)
    assert done.code == 6 and says in done.line and not done.stages and not done.out


@pytest.mark.parametrize(
    ("energy", "says"),
    [
        ("unavailable", r"^lab has no meter of its energy that can be read, .*: give a --device that has one"),
        (None, "lab has no meter"),
        ("locked", r"^lab has counters of energy that root alone may read: sudo chmod a\+r /sys/class/powercap"),
        ("rapl", None),
        ("ina3221", None),
    ],
)
def test_what_a_device_lacks_is_named_with_what_would_do(energy: str | None, says: str | None) -> None:
    facts: dict[str, Any] = {"energy": energy}
    if says is None:
        check_own_meter("lab", facts)
        return
    with pytest.raises(DeviceError, match=says):
        check_own_meter("lab", facts)


@pytest.mark.parametrize(
    ("meter", "says"),
    [
        ("nosuchcmd", "--meter 'nosuchcmd' cannot be run: there is no command 'nosuchcmd': give a command that prints"),
        ("models.py", "--meter 'models.py' cannot be run: it is not executable"),
        ("gone.csv", "--meter gone.csv cannot be read (No such file or directory)"),
        ("", "--meter without a command"),
    ],
)
def test_a_meter_that_is_none_is_refused_before_anything_is_exported(
    given: Path, monkeypatch: pytest.MonkeyPatch, edgesdk: Run, meter: str, says: str
) -> None:
    monkeypatch.chdir(given)
    done = edgesdk("benchmark", "models.py:Small", "--meter", meter)
    assert done.code == 2 and says in done.line and "a word from the model" not in done.err
