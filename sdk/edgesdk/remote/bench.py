"""What the SDK asks of a device: its facts, operator prices, and measurements of whole artefacts."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgesdk.artefact import FORMAT_OF, FORMATS, Artefact
from edgesdk.errors import DeviceError
from edgesdk.price.operators import Operator
from edgesdk.price.table import Table
from edgesdk.remote.local import AgentProcess
from edgesdk.report import Report
from edgesdk_targets.agent.measure import MODES

CHUNK = 256  # probes sent at a time: what is lost when a run is interrupted
ROUNDS = 5
Progress = Callable[[float], None]


class Bench:
    """A device on which one runtime is measured with a fixed number of threads."""

    def __init__(self, agent: AgentProcess, threads: int = 1, runtime: str = "onnxruntime") -> None:
        self.agent, self.threads, self.runtime = agent, threads, runtime
        self.facts: Mapping[str, Any] = agent.call("probe")
        self.versions: Mapping[str, str] = self.facts.get("runners") or {}
        if runtime not in self.versions:
            extra = FORMATS[FORMAT_OF[runtime]].extra
            remedy = f"pip install 'edgesdk[{extra}]'" if extra else f"pip install {runtime}"
            raise DeviceError(f"{runtime} is not installed on {agent.where}", remedy)
        self.version = str(self.versions[runtime])
        cores = int(self.facts.get("cores") or 1)
        if threads > cores:
            raise DeviceError(f"{threads} threads on {cores} cores", f"give --threads {cores} or fewer")

    @property
    def conditions(self) -> dict[str, str]:
        """What an operator's latency depends on: the key under which prices are kept."""
        features = ",".join(sorted(self.facts.get("features") or ()))
        return {
            "cpu": f"{self.facts.get('cpu')} ({features})",
            "runtime": f"{self.runtime} {self.version}",
            "threads": str(self.threads),
        }

    def table(self, folder: Path, copies: int, weights: int) -> Table:
        """The prices that were measured under these conditions, kept in ``folder``."""
        return Table.open(folder, self.conditions, copies, FORMATS[FORMAT_OF[self.runtime]].unpacks)

    def price(
        self,
        table: Table,
        operators: Sequence[Operator],
        probe: Callable[[Operator], bytes],
        progress: Progress = lambda share: None,
    ) -> int:
        """Time what ``table`` lacks of ``operators``, and remember it; how many probes that took."""
        missing = table.missing(operators)
        for start in range(0, len(missing), CHUNK):
            part = missing[start : start + CHUNK]
            models = [{"key": op.key, "model": base64.b64encode(probe(op)).decode()} for op in part]
            answer = self.agent.call(
                "operators", models=models, runtime=self.runtime, threads=self.threads, rounds=ROUNDS
            )
            if failed := [item for item in answer["results"] if "error" in item]:
                raise DeviceError(f"{failed[0]['key']} does not run: {failed[0]['error']}", "report this as a defect")
            table.add({item["key"]: float(item["ms"]) for item in answer["results"]})
            progress(min(1.0, (start + len(part)) / len(missing)))
        return len(missing)

    def measure(
        self,
        artefacts: Mapping[str, Artefact],
        mode: str,
        baselines: Mapping[str, Path] | None = None,
        thorough: bool = True,
    ) -> dict[str, Report]:
        """Each artefact's report, from one run in which their blocks are interleaved, each in its own runtime.

        ``baselines`` has a tiny model per runtime that pages it in before memory is measured. ``thorough`` measures
        cold loads too, each in processes of their own.
        """
        count, seconds = MODES[mode]
        run = self.agent.call(
            "benchmark",
            artifacts=[
                {"name": name, "path": str(artefact.path), "runtime": artefact.runtime}
                for name, artefact in artefacts.items()
            ],
            runtime=self.runtime,
            threads=self.threads,
            minimum_count=count,
            minimum_seconds=seconds,
        )
        reports = {}
        for found in run["artifacts"]:
            artefact = artefacts[found["name"]]
            same = {"path": str(artefact.path), "runtime": artefact.runtime, "threads": self.threads}
            baseline = (baselines or {}).get(artefact.runtime)
            memory = self.agent.call("memory", **same, baseline=str(baseline) if baseline else None)
            reports[found["name"]] = Report(
                name=found["name"],
                digest=found["digest"],
                size_bytes=artefact.size_bytes,
                runtime=artefact.runtime,
                runtime_version=self.versions[artefact.runtime],
                precision=found["runtime"]["precision"],
                threads=self.threads,
                mode=mode,
                statistics=found["statistics"],
                samples_ms=tuple(found["samples_ms"]),
                peak_memory_bytes=memory["peak_added"],
                runtime_memory_bytes=memory["runtime_baseline"],
                load_ms=self.agent.call("load", **same)["load_ms"] if thorough else None,
                conditions=run["conditions"],
                device={key: value for key, value in self.facts.items() if key != "conditions"},
                valid=run["valid"],
                reason=run["reason"],
            )
        return reports

    def kernels(self, path: Path) -> list[dict[str, Any]]:
        """The kernels that the runtime really executed: name, operator, provider, share of the time."""
        return self.agent.call("kernels", path=str(path), runtime=self.runtime, threads=self.threads)["kernels"]
