"""A device that is reached over SSH: a server on a loopback port, a home folder, a Python of its own."""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from edgesdk.devices.inventory import Device

HERE = Path(__file__).parent
SSHD = shutil.which("sshd", path=os.environ["PATH"] + ":/usr/sbin:/usr/local/sbin")
SECONDS = 20.0  # for anything here to happen that is not measured

# The account's commands run in this; ``profile`` is a test's own.
LOGIN = """#!/bin/sh
export HOME='{home}' TMPDIR='{home}/tmp' PATH=/usr/bin:/bin
cd "$HOME"
[ ! -f '{folder}/profile' ] || . '{folder}/profile'
exec /bin/bash -c "$SSH_ORIGINAL_COMMAND"
"""
HOLDING = """
import fcntl, sys, time
with open(sys.argv[1], "a") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    print("held", flush=True)
    time.sleep(3600)
"""
SERVER = """
ListenAddress 127.0.0.1
ListenAddress 127.0.0.2
Port {port}
HostKey {folder}/host_key
PidFile {folder}/sshd.pid
AuthorizedKeysFile {folder}/authorized_keys
AuthenticationMethods publickey
StrictModes no
UsePAM {pam}
MaxStartups 100
MaxSessions 50
ForceCommand {folder}/login
"""
CLIENT = """
Host stranger
    IdentityFile {folder}/stranger_key
Host unknown
    UserKnownHostsFile {folder}/no_hosts
Host changed
    UserKnownHostsFile {folder}/changed_hosts
Host inner
    ProxyJump board
Host board inner
    HostName 127.0.0.1
Host stranger unknown changed
    HostName 127.0.0.2
Host board inner stranger unknown changed
    HostKeyAlias board
    Port {port}
Host * !stranger
    IdentityFile {folder}/key
Host *
    User {user}
    IdentitiesOnly yes
    IdentityAgent none
    UserKnownHostsFile {folder}/known_hosts
    GlobalKnownHostsFile /dev/null
    StrictHostKeyChecking yes
"""


@dataclass
class Board:
    """A device over SSH as ``ssh://board``, with everything of it below ``folder``. One at a time may use it."""

    folder: Path
    port: int
    server: subprocess.Popen[bytes] | None = None

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def tmp(self) -> Path:
        return self.home / "tmp"

    @property
    def sockets(self) -> Path:
        """The host's folder for temporary files: a short name, as sockets are in it."""
        return self.folder / "t"

    @property
    def python(self) -> Path:
        """The Python there, which has NumPy and ONNX Runtime and nothing else."""
        return self.folder / "venv" / "bin" / "python"

    @property
    def ssh(self) -> str:
        """What to give as ``EDGESDK_SSH``."""
        return f"ssh -F {self.folder / 'client'}"

    def up(self) -> None:
        """Start its server and wait until it answers."""
        assert SSHD is not None
        command = [SSHD, "-D", "-e", "-f", str(self.folder / "server")]
        with (self.folder / "sshd.log").open("ab") as log:
            self.server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_for(lambda: listens(self.port) or self.server is None or self.server.poll() is not None)
        if not listens(self.port):
            raise RuntimeError((self.folder / "sshd.log").read_text())

    def down(self) -> None:
        """Stop its server. What it started lives on, as on a device whose network is gone."""
        if self.server is not None:
            self.server.kill()
            self.server.wait()
            self.server = None

    def fault(self, mode: str, **details: Any) -> None:
        """From now on the device's Python fails as :mod:`board_faults` says."""
        (self.home / "fired").unlink(missing_ok=True)
        (self.home / "fault.json").write_text(json.dumps({"mode": mode, **details}))

    @property
    def fired(self) -> bool:
        """Whether the fault happened."""
        return (self.home / "fired").exists()

    def mend(self) -> None:
        """Nothing fails any more, and nothing of what failed runs on."""
        for name in ("fault.json", "fired"):
            (self.home / name).unlink(missing_ok=True)
        (self.folder / "profile").unlink(missing_ok=True)
        _end(self.processes)

    def pin(self) -> None:
        """From its next login on it may use the last of its cores alone."""
        core = max(os.sched_getaffinity(0))
        self.profile(f"taskset -p -c {core} $$ > /dev/null")

    def profile(self, lines: str) -> None:
        """Shell commands that each login runs first."""
        (self.folder / "profile").write_text(lines + "\n")

    def cut(self) -> None:
        """End the connections that clients share, without a word. Their sockets stay."""
        _end(self.shared_connections)

    def shared_connections(self) -> list[int]:
        """The clients in the background that hold a connection."""
        return _processes(b"ssh: " + bytes(self.sockets) + b"/")

    def processes(self) -> list[int]:
        """The device's own Pythons that run."""
        return _processes(bytes(self.folder / "venv") + b"/")

    def sessions(self) -> list[int]:
        """What its server started for those who are logged in."""
        numbers = []
        for number in _processes(b"sshd"):
            with contextlib.suppress(OSError):
                parent = int(Path(f"/proc/{number}/stat").read_text().rpartition(") ")[2].split()[1])
                if self.server is not None and parent == self.server.pid or parent in numbers:
                    numbers.append(number)
        return numbers

    @contextlib.contextmanager
    def holding(self, lock: Path) -> Iterator[subprocess.Popen[bytes]]:
        """Another process of the device holds ``lock`` meanwhile; at the end it dies with it in its hands."""
        with subprocess.Popen([str(self.python), "-c", HOLDING, str(lock)], stdout=subprocess.PIPE) as holder:
            try:
                assert holder.stdout is not None and holder.stdout.readline()
                yield holder
            finally:
                holder.kill()

    def run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        """A command on the device, not through SSH."""
        environment = {"HOME": str(self.home), "TMPDIR": str(self.tmp), "PATH": "/usr/bin:/bin"}
        return subprocess.run([*map(str, command)], env=environment, capture_output=True, text=True, timeout=60)

    def at(self, host: str = "board", **details: Any) -> Device:
        """It as a device that the host knows."""
        return Device(**{"name": "board", "address": f"ssh://{host}", "python": str(self.python), **details})

    @property
    def root(self) -> Path:
        """Where bundles are installed."""
        return self.home / ROOT

    def runs(self) -> str:
        """Which version is installed, by running it as a user would."""
        current = self.root / "current"
        done = self.run(self.python, current / "run.py", "--check")
        assert done.returncode == 0, done.stderr
        return current.resolve().name

    def rest(self) -> list[str]:
        """What lies on the device that is none of whole versions, their order, and locks."""
        place = self.root
        paths = [path for path in self.tmp.iterdir() if path.name != "edgesdk-agent.lock"]
        paths += [path for path in place.glob("*") if path.name not in NAMES]
        paths += [path for path in (place / "versions").glob("*") if not _whole(path, place / "order.json")]
        return [str(path.relative_to(self.home)) for path in paths]


def _whole(version: Path, order: Path) -> bool:
    """Whether ``version`` is known, and holds just what its manifest says."""
    if version.name not in json.dumps(json.loads(order.read_text())) or not (version / "manifest.json").is_file():
        return False
    files = json.loads((version / "manifest.json").read_text())["files"]
    if {path.name for path in version.iterdir()} != {*files, "manifest.json"}:
        return False
    return all(hashlib.sha256((version / n).read_bytes()).hexdigest() == e["sha256"] for n, e in files.items())


def end_clients(sockets: Path) -> None:
    """End the clients in the background that hold a connection with its socket below ``sockets``."""
    _end(lambda: _processes(b"ssh: " + bytes(sockets) + b"/"))


def _processes(beginning: bytes) -> list[int]:
    """Those whose command line begins so."""
    numbers = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (entry / "cmdline").read_bytes().startswith(beginning):
                numbers.append(int(entry.name))
    return numbers


def _end(processes: Callable[[], list[int]]) -> None:
    for number in processes():
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
    wait_for(lambda: not processes())


ROOT = "edge"  # below the home folder: where bundles are installed
NAMES = ("versions", "current", "order.json", ".lock")


def wait_for(condition: Any, seconds: float = SECONDS) -> None:
    """Look until ``condition()`` holds. Raises ``TimeoutError``."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds:g} s")
        time.sleep(0.02)


def listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
        return True
    return False


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def make(folder: Path, python: Path | None = None) -> Board:
    """A board in ``folder``, not up yet: keys, configurations of both sides, home folder, Python.

    With the environment ``python`` of another board it has the same packages, under its own name.
    """
    board = Board(folder, free_port())
    for place in (board.home, board.tmp, board.sockets):
        place.mkdir()
    for name in ("host_key", "key", "stranger_key", "other_host_key"):
        keygen = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(folder / name)]
        subprocess.run(keygen, check=True, stdin=subprocess.DEVNULL)
    shutil.copy(folder / "key.pub", folder / "authorized_keys")
    (folder / "known_hosts").write_text("board " + (folder / "host_key.pub").read_text())
    (folder / "changed_hosts").write_text("board " + (folder / "other_host_key.pub").read_text())
    (folder / "login").write_text(LOGIN.format(folder=folder, home=board.home))
    (folder / "login").chmod(0o755)
    (folder / "server").write_text(SERVER.format(folder=folder, port=board.port, pam="yes" if _locked() else "no"))
    (folder / "client").write_text(CLIENT.format(folder=folder, port=board.port, user=getpass.getuser()))
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # the server of root wants it, and only its init script makes it
    _never_punish(folder / "server")
    if python is None:
        _python(folder / "venv")
    else:
        (folder / "venv").symlink_to(python)
    return board


def _locked() -> bool:
    """Whether the server would refuse this account for having no password, were it not to ask PAM."""
    with contextlib.suppress(OSError):
        for line in Path("/etc/shadow").read_text().splitlines():
            name, password = line.split(":")[:2]
            if name == getpass.getuser():
                return password.startswith("!")
    return False


def _never_punish(config: Path) -> None:
    """OpenSSH from 9.8 on shuts out who failed, which tests do all the time; older ones do not know the word."""
    assert SSHD is not None
    line = "PerSourcePenalties no"
    valid = subprocess.run([SSHD, "-t", "-f", str(config), "-o", line], capture_output=True).returncode == 0
    if valid:
        config.write_text(config.read_text() + line + "\n")


def _python(folder: Path) -> None:
    """An environment of its own, with NumPy, ONNX Runtime and :mod:`board_faults` alone."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    wanted = [f"{name}=={metadata.version(name)}" for name in ("numpy", "onnxruntime")]
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "--quiet", *wanted]
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}  # it would find them there
    subprocess.run([*pip, "--only-binary=:all:", "--no-compile"], check=True, env=clean)
    (packages,) = folder.glob("lib/python*/site-packages")
    shutil.copy(HERE / "board_faults.py", packages)
    (packages / "board_faults.pth").write_text("import board_faults\n")  # at the start of every interpreter


def reached(board: Board, patch: pytest.MonkeyPatch) -> None:
    """This process and those that it starts take the board's configuration, and share no connection with others."""
    patch.setenv("EDGESDK_SSH", board.ssh)
    patch.setenv("TMPDIR", str(board.sockets))
    patch.setattr(tempfile, "tempdir", str(board.sockets))


@contextlib.contextmanager
def mounted(folder: Path, size: str) -> Iterator[Path]:
    """A file system of its own, of ``size``, in ``folder``, which is new; skips where nobody here may mount."""
    folder.mkdir(parents=True)
    try:
        _as_root("mount", "-t", "tmpfs", "-o", f"size={size},mode=0777", "edgesdk-test", str(folder))
        try:
            yield folder
        finally:
            _as_root("umount", "--lazy", str(folder))
    finally:
        folder.rmdir()


def make_read_only(folder: Path) -> None:
    """From now on nobody can write to the file system that :func:`mounted` made in ``folder``."""
    _as_root("mount", "-o", "remount,ro", str(folder))


def _as_root(*command: str) -> None:
    try:
        done = subprocess.run(
            [*([] if os.geteuid() == 0 else ["sudo", "-n"]), *command], capture_output=True, text=True
        )
    except OSError as error:
        pytest.skip(f"nobody here may mount: {error}")
    if done.returncode:
        pytest.skip(f"nobody here may mount: {done.stderr.strip()}")
