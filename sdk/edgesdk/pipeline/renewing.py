"""A search begun again where the device was first seen undisturbed while it went on: what was priced is renewed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from edgesdk.pipeline.study import Anchored, Outdated, never

Found = TypeVar("Found")
RENEWALS = 2  # of one run at the most: a machine has few states, and each search takes its time


def search_renewing(
    anchored: Anchored, find: Callable[[Anchored], Found], may_renew: Callable[[], bool] = lambda: True
) -> Found:
    """What ``find`` comes to in the state that the device is known to have by its end.

    Where a measurement on its way sees a faster one, what is doubtful since is priced and measured again, and ``find``
    begins anew: what else is known, as prices in accuracy and what was learnt of a plan, is kept and serves again. Not
    where ``may_renew`` says no by then: epochs that are spent on a plan are not there for another.
    """
    for left in range(RENEWALS, 0, -1):
        try:
            return find(replace(anchored, may_renew=may_renew))
        except Outdated as found:
            stage = f"the device turned out {found.times:.2f} times as fast as it was priced: pricing it again"
            anchored.setups[0].tell(f"{stage} ({left} of {RENEWALS} times left)", None)
            anchored = anchored.renew()
    return find(replace(anchored, may_renew=never))
