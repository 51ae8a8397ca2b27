"""What bore on a measurement, before and after it."""

from __future__ import annotations

from typing import Any

from edgesdk.pages.render import NONE, Document, words

NAMES = {
    "temperatures": "temperature", "frequencies": "clock", "graphics": "clock of the GPU", "governor": "governor",
    "power_mode": "power mode",
    "throttle": "throttled", "load": "load", "usable_cores": "usable cores",
}  # fmt: skip
HARDWARE = ("board", "cpu", "cores", "os", "kernel", "l4t")
OWN = ("graphics",)  # which devices without such a part have nothing to tell of


def list_conditions(conditions: Document | None) -> list[tuple[str, ...]]:
    """Each condition that is known: its name, what it was before the run, and after it; then those that the device does
    not tell, where it tells any."""
    sides = [(conditions or {}).get(side) or {} for side in ("before", "after")]
    rows = [(label, *(_say(name, side.get(name)) for side in sides)) for name, label in NAMES.items()]
    known = [row for row in rows if row[1:] != (NONE, NONE)]
    own = [label for name, label in NAMES.items() if name not in OWN]
    untold = (", ".join(row[0] for row in rows if row[0] in own and row[at] == NONE) or NONE for at in (1, 2))
    last = ("not told by the device", *untold)
    return [*known, last] if known and last[1:] != (NONE, NONE) else known


def tell_conditions(conditions: Document | None) -> list[tuple[str, str]]:
    """The same with one text each: what it was, and what it was then where that is another."""
    return [(name, before if before == after else f"{before}, then {after}") for name, before, after in (
        list_conditions(conditions)
    )]  # fmt: skip


def list_hardware(device: Document | None) -> dict[str, Any]:
    """What is known of the device itself."""
    known = {name: device[name] for name in HARDWARE if device and device.get(name) not in (None, [], {})}
    memory = (device or {}).get("memory_bytes")
    return {**known, "memory": f"{memory / 1e9:.3g} GB"} if memory else known


def _say(name: str, value: Any) -> str:
    if name == "temperatures" and value:
        known = [zone for zone in value if zone.get("celsius") is not None]
        return ", ".join(f"{zone.get('type') or zone['zone']} {zone['celsius']:.1f} °C" for zone in known) or NONE
    if name == "frequencies" and value:
        clocks = [core["mhz"] for core in value if core.get("mhz") is not None]
        if not clocks:
            return NONE
        least, most = f"{min(clocks):.0f}", f"{max(clocks):.0f}"
        return f"{least} MHz" if least == most else f"{least} to {most} MHz"
    if name == "graphics" and value:
        return NONE if value.get("mhz") is None else f"{value['mhz']:.0f} MHz"
    if name == "throttle" and value:
        now, ever = (", ".join(value.get(key) or ()) for key in ("now", "since_boot"))
        told = f"{now or 'no'}{f' (since it was started: {ever})' if ever else ''}"
        return f"{told}, {value['events']} times" if value.get("events") else told
    return words(value)
