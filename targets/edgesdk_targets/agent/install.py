"""Installing a bundle that lies on this device, beside what is installed, and going back to what ran before.

Nothing of a bundle is loaded before its digests are checked, and the link ``current`` is switched to it, in one step,
only after it has shown that it works here. Whatever stops an installation, what ran before it still runs.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import shutil
import stat
from itertools import zip_longest
from typing import Any, Iterator, Sequence

from edgesdk_targets.agent import files, health, lock, probe, protocol, runners
from edgesdk_targets.agent.protocol import REFUSED, STORAGE, USAGE, AgentError, Report
from edgesdk_targets.agent.versions import LOCK, Versions

SCHEMA = "edgesdk.manifest/2"  # before, 1: the version alone
MANIFEST, MODEL = "manifest.json", "model.onnx"
NEEDED = (health.SAMPLE, health.REPORT)  # beside the model
STATES = ("checking", "copying", "testing", "switching", "pruning")
SPARE_BYTES = 1_000_000
CREATED = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")


class _Bundle:
    """A bundle on this device whose files are those that its manifest lists. Raises ``AgentError``."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        try:
            with _regular(os.path.join(folder, MANIFEST)) as file:
                content = file.read()
            self.manifest = protocol.decoded(content)
        except OSError as error:
            raise _refused(f"{folder} is no bundle: its {MANIFEST} cannot be read ({error.strerror})") from None
        except ValueError:
            raise _refused(f"the {MANIFEST} of the bundle is no JSON") from None
        if not isinstance(self.manifest, dict):
            raise _refused(f"the {MANIFEST} of the bundle is no JSON object")
        schema, created = self.manifest.get("schema"), self.manifest.get("created")
        if type(schema) not in (int, str) or schema not in (1, SCHEMA):
            fact = f"the bundle has schema {schema!r:.80}, this agent knows {SCHEMA}"
            raise AgentError(REFUSED, fact, "use the same version of edgesdk for making and installing it")
        if not isinstance(created, str) or not CREATED.fullmatch(created):
            raise _refused(f"the bundle does not say when it was created, but {created!r:.80}")
        digest = hashlib.sha256(content).hexdigest()
        self.version = f"{re.sub('[-:]', '', created)}-{digest[:12]}"
        self.model = self.manifest.get("model", MODEL)
        self.threads = self.manifest.get("threads", 1)
        if not isinstance(self.threads, int) or isinstance(self.threads, bool) or self.threads < 1:
            raise _refused(f"the bundle is for {self.threads!r:.80} threads")
        self.files = _listed(self.manifest.get("files"), self.model)
        self.files[MANIFEST] = {"sha256": digest, "bytes": len(content)}
        for name in self.files:
            self.check(name, folder)

    def check(self, name: str, folder: str) -> None:
        """Raise ``AgentError`` unless ``folder`` has the regular file ``name`` as it is recorded."""
        try:
            with _regular(os.path.join(folder, name)) as file:
                state = hashlib.sha256()
                for part in iter(lambda: file.read(1 << 20), b""):
                    state.update(part)
        except OSError as error:
            raise _refused(f"{name} of the bundle cannot be read ({error.strerror})") from None
        if state.hexdigest() != self.files[name]["sha256"]:
            raise _refused(f"{name} of the bundle was changed: its SHA-256 is not the manifest's")

    def lacks(self, folder: str) -> list[str]:
        """The files that ``folder`` does not have as they are recorded."""
        lacking = []
        for name in self.files:
            try:
                self.check(name, folder)
            except AgentError:
                lacking.append(name)
        return lacking

    def copy(self, names: list[str], folder: str) -> None:
        """Copy files into ``folder``, onto the disk, and check what is there."""
        for name in names:
            path = os.path.join(folder, name)
            with _regular(os.path.join(self.folder, name)) as source, open(path, "wb") as copy:
                shutil.copyfileobj(source, copy, 1 << 20)
                copy.flush()
                os.fsync(copy.fileno())
            self.check(name, folder)


def install(
    report: Report,
    *,
    folder: str,
    root: str,
    keep: int = 3,
    force: bool = False,
    baseline: str | None = None,
    references: Sequence[dict[str, str]] = (),
    reference_ms: float | None = None,
    lock_seconds: float = lock.SECONDS,
) -> dict[str, Any]:
    """Make the bundle in ``folder`` the one that runs below ``root``, if it does here what was recorded of it.

    It is checked, copied, tested as ``health`` says with the tiny models ``baseline`` and ``references``, and switched
    to; then all but the last ``keep`` versions are removed. ``force`` takes a bundle that is older than what runs, or
    made for another architecture. What runs already is checked again, and mended.

    Returns ``version``, the ``previous`` one or ``None``, ``health``, and the versions that were ``removed``. Raises
    ``AgentError``; then what ran before runs on.
    """
    if not isinstance(keep, int) or isinstance(keep, bool) or keep < 1:
        raise AgentError(USAGE, f"{keep!r} is no number of versions to keep", "give a whole number from 1 on")
    if not isinstance(folder, str) or not os.path.isdir(folder):
        raise AgentError(USAGE, f"{folder} is no folder on this device", "send the bundle first")
    versions = Versions(root)

    def tell(state: str) -> None:
        report({"done": STATES.index(state), "of": len(STATES), "state": state})

    with _changing(report, versions, lock_seconds):
        tell("checking")
        bundle = _Bundle(folder)
        previous = versions.current()
        _admit(bundle, previous, force)
        runtime = _runner(bundle.manifest.get("runtime"))
        was_there = os.path.isdir(versions.path(bundle.version))
        try:
            tell("copying")
            _place(bundle, versions)
            tell("testing")
            path = os.path.join(versions.path(bundle.version), bundle.model)
            checked = health.check(
                report,
                path=path,
                runtime=runtime,
                threads=bundle.threads,
                baseline=baseline,
                references=references,
                reference_ms=reference_ms,
                lock_seconds=lock_seconds,
            )
            tell("switching")
            if previous != bundle.version:
                others = [each for each in versions.order() if each not in (previous, bundle.version)]
                versions.write_order([*others, *([previous] if previous else []), bundle.version])
                versions.switch(bundle.version)
        except BaseException:  # the host may be gone, too
            if not was_there and versions.current() != bundle.version:
                versions.remove(bundle.version)
            raise
        removed: list[str] = []
        with contextlib.suppress(OSError):  # the new version runs; the next installation removes what is left
            tell("pruning")
            removed = _prune(versions, keep)
    return {"version": bundle.version, "previous": previous, "health": checked, "removed": removed}


def rollback(report: Report, *, root: str, lock_seconds: float = lock.SECONDS) -> dict[str, Any]:
    """Make the version that ran before the one that runs. Returns ``version`` and the ``previous`` one.

    Raises ``AgentError`` where there is none, or its files are not what they were.
    """
    versions = Versions(root)
    if not os.path.isdir(versions.folder):
        raise AgentError(REFUSED, f"nothing is installed in {versions.root}", "install a bundle there first")
    with _changing(report, versions, lock_seconds):
        previous, version = versions.current(), versions.before()
        if version is None:
            raise AgentError(REFUSED, f"there is no version before {previous or 'any'}", "install one")
        if _Bundle(versions.path(version)).version != version:
            raise _refused(f"the {MANIFEST} of {version} was changed")
        versions.switch(version)
    return {"version": version, "previous": previous}


def installed(report: Report, *, root: str) -> dict[str, Any]:
    """The version that runs below ``root``, ``current``, and all ``versions``: ``{"version", "created", "bytes"}``."""
    return Versions(root).told()


@contextlib.contextmanager
def _changing(report: Report, versions: Versions, lock_seconds: float) -> Iterator[None]:
    """Hold the root, with what an interrupted change left behind removed."""
    try:
        os.makedirs(versions.folder, exist_ok=True)
        held = f"another installation has held {versions.root}"
        with lock.file_lock(report, os.path.join(versions.root, LOCK), held, lock_seconds):
            versions.sweep()
            try:
                yield
            except BaseException:
                with contextlib.suppress(OSError, AgentError):
                    versions.sweep()
                raise
    except BrokenPipeError:
        raise
    except OSError as error:
        fact = f"cannot write {error.filename or versions.root} on this device: {error.strerror}"
        raise AgentError(STORAGE, fact, "free some space there, or install to a folder that can be written") from None


def _admit(bundle: _Bundle, current: str | None, force: bool) -> None:
    """Raise ``AgentError`` where the bundle is for another architecture, or older than what runs."""
    architecture, machine = bundle.manifest.get("architecture"), platform.machine()
    if force:
        return
    if architecture not in (None, machine):
        fact = f"the bundle is for {architecture}, this device is {machine}"
        raise AgentError(REFUSED, fact, "deploy for this device, or give --force")
    if current is not None and current.partition("-")[0] > bundle.version.partition("-")[0]:
        fact = f"the bundle {bundle.version} is older than {current}, which runs"
        raise AgentError(REFUSED, fact, "roll back, or give --force")


def _runner(wanted: Any) -> str:
    """The name of a runner that is here for a manifest's ``runtime``. Raises ``AgentError`` where none is."""
    name = wanted.get("name") if isinstance(wanted, dict) else None
    readers = runners.readers(name) if isinstance(name, str) else []
    if not isinstance(name, str) or not readers:
        names = ", ".join(
            sorted({*runners.RUNNERS, *(n for runner in runners.RUNNERS.values() for n in runner.instead_of)})
        )
        raise AgentError(REFUSED, f"the bundle is for the runtime {name!r:.80}", f"deploy for one of {names}")
    here = probe.installed_runners()
    chosen = next((reader for reader in readers if reader in here), readers[0])
    version = here.get(chosen) or runners.runner(chosen).VERSION
    minimum = wanted.get("minimum")
    if chosen == name and isinstance(minimum, str) and _is_older(version, minimum):
        fact = f"{chosen} {version} is on this device, the bundle needs {minimum}"
        raise AgentError(REFUSED, fact, f"install a newer {chosen} there")
    return chosen


def _is_older(version: str, minimum: str) -> bool:
    numbers = (map(int, re.findall(r"\d+", text.partition("-")[0])) for text in (version, minimum))
    for ours, least in zip_longest(*numbers, fillvalue=0):
        if ours != least:
            return ours < least
    return False


def _place(bundle: _Bundle, versions: Versions) -> None:
    """Copy what the folder of this version lacks: all of it, or the files that were damaged."""
    path, partial = versions.path(bundle.version), versions.path(f".{bundle.version}.partial")
    there = os.path.isdir(path)
    names = bundle.lacks(path) if there else list(bundle.files)
    needed = sum(bundle.files[name]["bytes"] for name in names) + SPARE_BYTES
    status = os.statvfs(versions.root)
    free = status.f_bavail * status.f_frsize
    if names and free < needed:
        fact = f"{versions.root} has {free / 1e6:.1f} MB free on this device, the bundle needs {needed / 1e6:.1f} MB"
        raise AgentError(STORAGE, fact, "free some space there, or install to another folder")
    if there and not names:
        return
    os.mkdir(partial)
    bundle.copy(names, partial)
    if there:  # file by file, as the folder may be the one that runs
        for name in names:
            os.rename(os.path.join(partial, name), os.path.join(path, name))
        os.rmdir(partial)
        _sync(path)
        return
    _sync(partial)
    versions.publish(partial, bundle.version)


def _prune(versions: Versions, keep: int) -> list[str]:
    """Remove the versions that ran longest ago. What runs and what ran before it stay."""
    order = versions.order()
    kept = {*order[-keep:], versions.current(), versions.before()}
    removed = [version for version in order if version not in kept]
    if removed:
        versions.write_order([version for version in order if version in kept])
        for version in removed:
            versions.remove(version)
    return removed


def _listed(listed: Any, model: Any) -> dict[str, dict[str, Any]]:
    """A manifest's ``files`` if they are such as can be installed. Raises ``AgentError``."""
    if not isinstance(listed, dict) or not isinstance(model, str) or not {model, *NEEDED} <= set(listed):
        raise _refused(f"the {MANIFEST} does not list the files of a bundle")
    for name, entry in listed.items():
        if not files.is_plain(name) or name == MANIFEST:
            raise _refused(f"the {MANIFEST} lists {name[:80]!r}, which is no name for a file of a bundle")
        digest, size = (entry.get(key) if isinstance(entry, dict) else None for key in ("sha256", "bytes"))
        if not isinstance(digest, str) or not isinstance(size, int) or size < 0:
            raise _refused(f"the {MANIFEST} lists {name} without its SHA-256 and bytes")
    return dict(listed)


@contextlib.contextmanager
def _regular(path: str) -> Iterator[Any]:
    """The file at ``path``, open for reading. Raises ``AgentError`` where it is a link, or no regular file."""
    if not stat.S_ISREG(os.lstat(path).st_mode):
        raise _refused(f"{os.path.basename(path)} of the bundle is no regular file")
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
        yield file


def _sync(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _refused(fact: str) -> AgentError:
    return AgentError(REFUSED, fact, "deploy again, or send the whole folder")
