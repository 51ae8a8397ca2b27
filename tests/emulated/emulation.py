"""Boards with Arm processors, emulated by QEMU's user mode: what they compute counts, how long they take does not.

A board is a folder in place of ``/`` and a script that is its Python. Debian's packages and the runtimes' wheels are
unpacked once; ``EDGESDK_TEST_ROOTS`` names a folder in which they are kept from one run of the tests to the next.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from edgesdk.devices.inventory import Device
from edgesdk_targets import bundle_run

HERE = Path(__file__).parent
MIRROR = "http://deb.debian.org/debian"
# Raspberry Pi OS of 2023 is Debian 12; its Python and glibc bound what wheels there are.
RELEASE, PYTHON, GLIBC = "bookworm", "3.11", range(17, 37)
PACKAGES = (
    *("python3-minimal", f"libpython{PYTHON}-stdlib", "libc6", "libstdc++6", "libgcc-s1", "zlib1g", "libssl3"),
    *("libffi8", "libbz2-1.0", "liblzma5", "libexpat1", "libsqlite3-0", "libuuid1"),
)
TOOLS = {
    "mmdebstrap": "mmdebstrap", "qemu-aarch64-static": "qemu-user-static", "qemu-arm-static": "qemu-user-static",
    "qemu-aarch64": "qemu-user", "gcc": "gcc",
}  # fmt: skip
# Debian's mirrors and PyPI are elsewhere: a build that gets stuck there must end.
SECONDS = 300


@dataclass(frozen=True)
class System:
    """An architecture as Debian, Python's wheels and QEMU call it, and what is unpacked for it."""

    debian: str
    wheel: str
    triplet: str
    qemu: str
    wheels: tuple[str, ...]
    packages: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Of what is unpacked: another recipe is another folder."""
        return hashlib.sha256(repr((self, MIRROR, RELEASE, PYTHON, GLIBC, PACKAGES)).encode()).hexdigest()[:12]

    def versions(self) -> dict[str, str]:
        """The wheels' versions by name."""
        return dict(wheel.split("==") for wheel in self.wheels)


ARM64 = System(
    debian="arm64",
    wheel="aarch64",
    triplet="aarch64-linux-gnu",
    qemu="qemu-aarch64",
    # ExecuTorch's is linked with PyTorch's, and that of PyPI for this architecture with gigabytes of CUDA.
    wheels=("numpy==2.4.6", "onnxruntime==1.31.1", "ai-edge-litert==2.3.0", "ncnn==1.0.20261020"),
)
# No other runtime has wheels for it, and PyPI has no NumPy: Debian's is built against these libraries.
ARMHF = System(
    debian="armhf",
    wheel="armv7l",
    triplet="arm-linux-gnueabihf",
    qemu="qemu-arm",
    wheels=("tflite-runtime==2.14.0",),
    packages=("python3-numpy", "libblas3", "liblapack3", "libgfortran5"),
    libraries=("blas", "lapack"),
)


def _cpuinfo(features: str, architecture: int, part: str, model: str) -> str:
    core = (
        "processor\t: {}\nBogoMIPS\t: 108.00\nFeatures\t: " + features + "\nCPU implementer\t: 0x41\n"
        f"CPU architecture: {architecture}\nCPU variant\t: 0x0\nCPU part\t: {part}\nCPU revision\t: 3\n\n"
    )
    return "".join(core.format(number) for number in range(4)) + f"Model\t\t: {model}\n"


def _facts(model: str, features: str, part: str, architecture: int = 8) -> dict[str, str]:
    """The files that tell what the board is. ``features`` must be what the emulated processor really has."""
    return {
        "proc/cpuinfo": _cpuinfo(features, architecture, part, model),
        "proc/device-tree/model": f"{model}\0",
        "proc/meminfo": "MemTotal:        3884376 kB\nMemFree:         3000000 kB\n",
        "proc/sys/kernel/osrelease": "6.1.0-rpi7-rpi-v8\n",
        "etc/os-release": 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\n',
        **{f"sys/devices/system/cpu/{name}": "0-3\n" for name in ("possible", "present", "online")},
        "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
        "sys/class/thermal/thermal_zone0/temp": "48199\n",
    }


@dataclass(frozen=True)
class Kind:
    """A board that can be emulated: its system, the processor as QEMU calls it, and its own files."""

    system: System
    cpu: str
    model: str
    files: Mapping[str, str] = field(repr=False)


A76 = "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
V7 = "half thumb fastmult vfp edsp neon vfpv3 tls vfpv4 idiva idivt vfpd32 lpae evtstrm"
PI_2, PI_4, PI_5 = (f"Raspberry Pi {name}" for name in ("2 Model B Rev 1.1", "4 Model B Rev 1.5", "5 Model B Rev 1.0"))
KINDS = {
    "pi4": Kind(ARM64, "cortex-a72", PI_4, _facts(PI_4, "fp asimd evtstrm crc32 cpuid", "0xd08")),
    "pi5": Kind(ARM64, "cortex-a76", PI_5, _facts(PI_5, A76, "0xd0b")),
    "armv7": Kind(ARMHF, "cortex-a7", PI_2, _facts(PI_2, V7, "0xc07", 7)),
}


@dataclass(frozen=True)
class Board:
    """An emulated board: ``python`` is a script that runs its Python here."""

    name: str
    kind: Kind
    python: Path
    counting: Path

    @property
    def device(self) -> Device:
        """It as a device of an inventory."""
        return Device(f"emulated-{self.name}", "local", python=str(self.python))

    def run(
        self, *arguments: str | Path, given: str = "", python: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """What its Python makes of ``arguments`` and, on stdin, of ``given``, without this machine's environment."""
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.python.parent), "TMPDIR": tempfile.gettempdir()}
        command = [str(python or self.python), *map(str, arguments)]
        return subprocess.run(
            command, input=given, capture_output=True, text=True, env=environment, timeout=SECONDS, check=False
        )

    def succeed(self, *arguments: str | Path) -> str:
        """The stdout of :meth:`run`, which must succeed."""
        done = self.run(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def count(self, *arguments: str | Path) -> list[int]:
        """How many instructions it had run at each mark that the script in ``arguments`` made: see ``count.c``."""
        done = self.run(*arguments, python=self.counting)
        assert done.returncode == 0, done.stderr
        marks = [line.split()[1] for line in done.stderr.splitlines() if line.startswith("instructions ")]
        return [int(mark) for mark in marks]


def needs_tools() -> None:
    """Skip where a program is missing that makes boards or runs them."""
    missing = sorted({package for program, package in TOOLS.items() if shutil.which(program) is None})
    if missing:
        pytest.skip(f"no emulated boards: apt-get install {' '.join(missing)}")


def unpacked(system: System, folder: Path) -> Path:
    """The folder with the packages and wheels of ``system``, made unless ``folder`` has it."""
    made = folder / f"{system.debian}-{system.digest}"
    if made.is_dir():
        return made
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{system.debian}-", dir=folder) as scratch:
        root = Path(scratch) / "root"
        include = ",".join((*PACKAGES, *system.packages))
        debian = ("mmdebstrap", f"--arch={system.debian}", "--variant=extract", f"--include={include}", RELEASE)
        _build(*debian, str(root), MIRROR)
        # Names of older platforms are not implied by newer ones.
        platforms = [f"--platform=manylinux_2_{minor}_{system.wheel}" for minor in GLIBC]
        platforms += [f"--platform=manylinux2014_{system.wheel}", f"--platform=linux_{system.wheel}"]
        abis = [f"--abi={abi}" for abi in (f"cp{PYTHON.replace('.', '')}", "abi3", "none")]
        only = ("--no-deps", "--no-compile", "--only-binary=:all:", "--implementation=cp", f"--python-version={PYTHON}")
        pip = (sys.executable, "-m", "pip", "install", "--quiet", f"--target={root / 'site'}")
        _build(*pip, *only, *abis, *platforms, *system.wheels)
        # Whatever else is there would hide folders of this machine, /tmp above all.
        kept = {name: root / name for name in ("usr", "lib", "site")}
        whole = Path(scratch) / "whole"
        whole.mkdir()
        for name, path in kept.items():
            path.rename(whole / name)
        try:
            whole.rename(made)
        except OSError:  # another run was quicker
            assert made.is_dir()
    return made


def _build(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, f"{command[0]} failed: {done.stderr[-2000:]}"


def board(name: str, kind: Kind, root: Path, plugin: Path, folder: Path) -> Board:
    """A board in ``folder`` with what is unpacked in ``root``; ``plugin`` counts its instructions."""
    own = folder / name
    own.mkdir()
    for part in root.iterdir():
        (own / part.name).symlink_to(part.resolve())
    for path, content in kind.files.items():
        (own / path).parent.mkdir(parents=True, exist_ok=True)
        (own / path).write_text(content)
    python, counting = folder / f"{name}-python", folder / f"{name}-counting"
    _script(python, kind, own, f"{kind.system.qemu}-static")
    # The static one loads no plugin. The other is for counting alone.
    _script(counting, kind, own, kind.system.qemu, f"-plugin {shlex.quote(str(plugin))}")
    return Board(name, kind, python, counting)


def _script(path: Path, kind: Kind, root: Path, program: str, options: str = "") -> None:
    system = kind.system
    emulator = shutil.which(program)
    libraries = [root / top / system.triplet for top in ("usr/lib", "lib")]
    libraries += [root / "usr/lib" / system.triplet / name for name in system.libraries]
    site = [root / "site", root / "usr/lib/python3/dist-packages"]
    # With its own path as the program's, Python starts its fresh processes through it too, so that they are emulated.
    # The default processor is one that LiteRT computes wrong integers on, without any error.
    path.write_text(
        f"""#!/bin/sh
exec env -i QEMU_CPU={kind.cpu} HOME="$HOME" TMPDIR="${{TMPDIR:-/tmp}}" PYTHONHOME="{root}/usr" \\
    PYTHONPATH="${{PYTHONPATH:+$PYTHONPATH:}}{":".join(map(str, site))}" PYTHONSAFEPATH="$PYTHONSAFEPATH" \\
    PYTHONHASHSEED=0 ORT_DISABLE_TELEMETRY=1 \\
    "{emulator}" {options} -0 "$0" -L "{root}" -E LD_LIBRARY_PATH="{":".join(map(str, libraries))}" \\
    "{root}/usr/bin/python{PYTHON}" "$@"
"""
    )
    path.chmod(0o755)


def runner() -> Path:
    """The file of ``run.py``, whose ``opened`` the scripts that run on a board use."""
    return Path(bundle_run.__file__)


if __name__ == "__main__":  # beforehand, into the folder that EDGESDK_TEST_ROOTS will name
    for every in (ARM64, ARMHF):
        unpacked(every, Path(sys.argv[1]))
