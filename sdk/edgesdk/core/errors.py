"""What can go wrong, each kind with its exit code. A message is one line: the fact, then the remedy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class EdgeSdkError(Exception):
    """Base of every error that edgesdk raises on purpose.

    ``fact`` says what is the case, ``remedy`` what to do about it; ``str()`` joins them on one line. ``figures`` are
    numbers that the fact names, by what they are.
    """

    kind = "other"
    exit_code = 1

    def __init__(self, fact: str, remedy: str, **figures: float) -> None:
        self.fact: str = " ".join(fact.split())
        self.remedy: str = " ".join(remedy.split())
        self.figures: Mapping[str, float] = figures
        super().__init__(f"{self.fact}: {self.remedy}")

    def __reduce__(self) -> tuple[Any, ...]:
        return _made_again, (type(self), self.args, self.__dict__)  # whatever it takes to make one


def _made_again(kind: type[EdgeSdkError], args: tuple[Any, ...], state: Mapping[str, Any]) -> EdgeSdkError:
    """The error that another process had."""
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(state)
    return error


class EdgeSdkWarning(UserWarning):
    """What a user should know before anything long begins, and does not stop it."""


class UsageError(EdgeSdkError):
    """An argument is wrong: an unknown target, a budget without a unit."""

    kind = "usage"
    exit_code = 2


class ModelError(EdgeSdkError):
    """The model cannot be loaded, traced or exported, or its weights do not fit."""

    kind = "model"
    exit_code = 3


class DataError(EdgeSdkError):
    """The data is missing, malformed, or does not fit the model."""

    kind = "data"
    exit_code = 4


class BudgetError(EdgeSdkError):
    """No plan keeps the budget; the message names the tightest reachable figure and the layers in the way.

    ``figure`` is the bound that is out of reach, by its name in ``Budget``, with what was ``asked`` and the
    ``tightest`` that there is (ms, bytes or points). ``built`` are all figures of the model that reaches that, where
    it was applied and measured or predicted, as ``basis`` says. Each is ``None`` where it does not apply.
    """

    kind = "budget"
    exit_code = 5

    def __init__(
        self, fact: str, remedy: str, *, figure: str | None = None, asked: float | None = None,
        tightest: float | None = None, built: Mapping[str, float] | None = None, basis: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(fact, remedy)
        self.figure: str | None = figure
        self.asked: float | None = asked
        self.tightest: float | None = tightest
        self.built: Mapping[str, float] | None = built
        self.basis: str | None = basis

    def but_for_time(self, note: str) -> BudgetError:
        """The same where ``note`` says what was left out for lack of time."""
        return BudgetError(
            f"{self.fact}; {note}", f"give it more --time, or {self.remedy}", figure=self.figure, asked=self.asked,
            tightest=self.tightest, built=self.built, basis=self.basis,
        )  # fmt: skip

    def advising(self, remedy: str) -> BudgetError:
        """The same with another ``remedy``."""
        return BudgetError(
            self.fact, remedy, figure=self.figure, asked=self.asked, tightest=self.tightest, built=self.built,
            basis=self.basis,
        )  # fmt: skip


class DeviceError(EdgeSdkError):
    """The device, or a runtime on it, is missing or failed."""

    kind = "device"
    exit_code = 6


class FidelityError(EdgeSdkError):
    """The exported file does not compute what the simulation computes."""

    kind = "fidelity"
    exit_code = 7
    INSTEAD = "choose another --runtime, or leave its layers in float with --precision fp32"
    FLOAT = "leave its layers in float with --precision fp32: every runtime rounds in its own way"


class BundleError(EdgeSdkError):
    """A bundle or a plan is damaged, of another schema, or in the way."""

    kind = "bundle"
    exit_code = 8


class StorageError(EdgeSdkError):
    """A file or folder could not be written."""

    kind = "storage"
    exit_code = 9


class UnexpectedError(EdgeSdkError):
    """Something that nobody foresaw went wrong inside; the message names a file with what a maintainer needs."""

    kind = "unexpected"
    exit_code = 70  # EX_SOFTWARE of sysexits.h
