"""Where a model is to run: the target, on the device that is it or from its profile, and what layers may run in."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgesdk.core.budget import Budget
from edgesdk.core.errors import DeviceError, UsageError
from edgesdk.core.facts import Hardware
from edgesdk.core.plan import FP32
from edgesdk.core.runtime import exportable, find_runtime, is_substituted
from edgesdk.core.serialize import from_json
from edgesdk.core.target import Target
from edgesdk.core.target import target as find_target
from edgesdk.devices.agent import AgentProcess
from edgesdk.devices.bench import Bench
from edgesdk.devices.boards import Boards
from edgesdk.devices.energy import check_own_meter, has_meter
from edgesdk.devices.engines import EngineBench
from edgesdk.devices.estimate import deployable
from edgesdk.devices.forecast import Forecast
from edgesdk.devices.inventory import LOCAL
from edgesdk.devices.meter import Meter
from edgesdk.devices.pool_bench import PoolBench, check_alike
from edgesdk.devices.pools import At, Place, Pool, find_place
from edgesdk.devices.reach import reach
from edgesdk.price.profile import profile

AUTO = "auto"  # every runtime of the target that there is a file for, but those that are taken by name alone


@dataclass(frozen=True)
class Meters:
    """What measures or predicts in each runtime that is asked for; of several, why some cannot."""

    meters: tuple[Meter, ...]
    missing: dict[str, str]


@dataclass(frozen=True)
class Where:
    """A ``target``, the ``device`` that is one where there is one, and what its layers may run in there.

    With ``dla`` engines are built for the accelerator of that number.

    It holds the target itself, not how it was called: an alias may move, and is never written anywhere.
    """

    target: Target
    runtime: str | None = None
    threads: int = 1
    device: Place | None = None
    precisions: tuple[str, ...] = ()
    candidates: tuple[str, ...] = ()
    dla: int | None = None

    @classmethod
    def named(
        cls, target: str, runtime: str | None = None, threads: int = 1, device: At | None = None,
        precisions: Sequence[str] = (), candidates: Sequence[str] = (), dla: int | None = None,
    ) -> Where:  # fmt: skip
        """The target and the device by their names. Raises ``UsageError`` where there are none such."""
        at = None if device is None else find_place(device)
        return cls(find_target(target), runtime, threads, at, tuple(precisions), tuple(candidates), dla)

    @property
    def at_hand(self) -> bool:
        """Whether it can be measured: on its device, or here where this machine is one."""
        return self.target.measured or self.device is not None

    def reach(self) -> AgentProcess | Boards:
        """The agent on the device, or on this machine; of a pool, those on its boards."""
        return Boards(self.device) if isinstance(self.device, Pool) else reach(self.device or LOCAL)

    def check_budget(self, budget: Budget | None) -> None:
        """Raise ``DeviceError`` where ``budget`` bounds energy, and nothing can measure that there.

        The device is asked for it, before anything that takes time.
        """
        if budget is None or budget.energy_mj is None:
            return
        if not self.at_hand:
            fact = f"{self.target.name} is predicted, and no profile knows what a run takes in energy"
            raise DeviceError(
                fact, "give a --device that has a meter (RAPL, INA3221 or hwmon), or bound something else"
            )
        if self.runtime not in (None, AUTO) and find_runtime(str(self.runtime)).engines:
            fact = f"the energy of a run is not told for {self.runtime}: each of its processes loads the model, too"
            raise DeviceError(fact, "choose another --runtime, or bound something else")
        with self.reach() as reached:
            boards = reached.probe() if isinstance(reached, Boards) else {reached.where: reached.call("probe")}
        if not any(has_meter(facts) for facts in boards.values()):
            check_own_meter(*next(iter(boards.items())))

    def open_meter(self, reached: AgentProcess | Boards, runtime: str) -> Meter:
        """What measures in ``runtime`` where that is at hand, and else predicts. Raises ``DeviceError``."""
        if isinstance(reached, Boards):
            return PoolBench(reached, lambda board, folder: self._open_bench(board.agent, runtime, folder))
        return self._open_bench(reached, runtime) if self.at_hand else self._predict(reached, runtime)

    def _find_first(self, reached: AgentProcess | Boards, force: bool) -> AgentProcess:
        """The agent that speaks for all: of a pool that of the first board which answers, where they are alike."""
        if not isinstance(reached, Boards):
            return reached
        facts = reached.probe()
        if not force:
            check_alike(reached.pool, facts, None if self.runtime in (None, AUTO) else [str(self.runtime)])
        return reached.left[0].agent

    def _open_bench(self, agent: AgentProcess, runtime: str, folder: Path | None = None) -> Bench:
        if find_runtime(runtime).engines:
            return EngineBench(self.target, agent, self.threads, runtime, self.dla)
        return Bench(agent, self.threads, runtime, folder, dla=self.dla)

    def _predict(self, agent: AgentProcess, runtime: str) -> Meter:
        return Forecast(self.target, agent, self.threads, runtime)

    def open_meters(self, reached: AgentProcess | Boards, force: bool) -> Meters:
        """A meter for each runtime that is asked for.

        Raises ``DeviceError`` where there is none, or where the board that answers is of another kind, or those of a
        pool are not alike, unless that is forced; ``UsageError`` for a runtime that the target does not have.
        """
        target, agent = self.target, self._find_first(reached, force)
        if self.device is not None and not force and (differs := target.differs(agent.call("probe"))):
            raise DeviceError(f"{agent.where} is no {target.name}: {differs}", "give its --target, or --force")
        lacking: dict[str, str] = {}
        if self.device is not None:  # what stands in for a runtime elsewhere is no measurement of it
            facts = from_json(Hardware, agent.call("probe"))
            stood_for = [name for name in deployable(profile(target), self.at_hand) if is_substituted(name)]
            absent = [name for name in stood_for if name not in facts.runners]
            lacking = {name: facts.wheels.get(name, "install it there") for name in absent}
        if self.runtime is not None and self.runtime in lacking:
            raise DeviceError(f"{self.runtime} is not installed on {agent.where}", lacking[self.runtime])
        wanted = self.list_runtimes(lacking)
        if self.dla is not None and not (self.at_hand and any(find_runtime(name).engines for name in wanted)):
            fact = f"--dla {self.dla}, and nothing that builds engines for an accelerator"
            raise UsageError(fact, "give --runtime tensorrt and a --device that has it")
        meters: list[Meter] = []
        missing: dict[str, str] = {}
        for name in wanted:
            try:
                meters.append(self.open_meter(reached, name))
            except DeviceError as error:
                if len(missing) + 1 == len(wanted):
                    raise
                missing[name] = str(error)
        if self.at_hand and self.runtime in (None, AUTO):
            missing |= {name: f"it is not there: {how}" for name, how in lacking.items()}
        return Meters(tuple(meters), missing)

    def list_runtimes(self, lacking: Collection[str] = ()) -> list[str]:
        """The runtimes that are asked for, but those that the device is ``lacking``. Raises ``UsageError`` for one that
        the target does not have."""
        target = self.target
        available = [name for name in deployable(profile(target), self.at_hand) if name not in lacking]
        every = [name for name in available if not find_runtime(name).by_name]
        wanted = every if self.runtime == AUTO else [self.runtime] if self.runtime else available[:1]
        if not wanted:
            profile(target).runtime(exportable())  # says what is missing
        if unknown := [name for name in wanted if name not in available]:
            fact = f"{target.name} has no runtime {unknown[0]!r} that there is a file and a price for"
            raise UsageError(fact, f"choose one of {', '.join([*available, AUTO])}")
        return wanted

    def allow_precisions(self, runtime: str) -> tuple[str, ...]:
        """The precisions that layers may run in: those of the target's runtime, as far as they are asked for."""
        has, wanted = self.target.precisions[runtime], self.precisions
        if unknown := [name for name in wanted if name not in has]:
            fact = f"{runtime} on {self.target.name} runs no layer in {unknown[0]}"
            raise UsageError(fact, f"choose of {', '.join(has)}")
        return tuple(name for name in has if name == FP32 or not wanted or name in wanted)
