"""Which wheel of a runtime a device can take, so that one that lacks the runtime is told what to install."""

from __future__ import annotations

import platform
import shlex
import sys

# What pip took from PyPI on 2026-11-21: by package, machine and Python, the least glibc 2.x that a wheel asks for, and
# the newest version of which that is so, from the newest on. What is not here has no wheel.
_ONNXRUNTIME = {
    (3, 8): ((27, "1.19.2"), (17, "1.16.3")),
    (3, 9): ((27, "1.19.2"), (17, "1.16.3")),
    (3, 10): ((27, "1.23.2"), (17, "1.16.3")),
    (3, 11): ((28, "1.31.1"), (27, "1.28.0"), (17, "1.16.3")),
    (3, 12): ((28, "1.31.1"), (27, "1.28.0")),
    (3, 13): ((28, "1.31.1"), (27, "1.28.0")),
}
_LITERT = {
    (3, 9): ((27, "2.1.0"), (17, "1.4.0")),
    (3, 10): ((27, "2.3.0"), (17, "1.4.0")),
    (3, 11): ((27, "2.3.0"), (17, "1.4.0")),
    (3, 12): ((27, "2.3.0"), (17, "1.4.0")),
    (3, 13): ((27, "2.3.0"),),
}
_TFLITE_ARM = {
    (3, 8): ((34, "2.14.0"), (17, "2.13.0")),
    (3, 9): ((34, "2.14.0"), (17, "2.13.0")),
    (3, 10): ((34, "2.14.0"), (17, "2.13.0")),
    (3, 11): ((34, "2.14.0"),),
}
_NCNN = {
    (3, 8): ((24, "1.0.20260526"), (17, "1.0.20250503")),
    **{(3, minor): ((24, "1.0.20261020"), (17, "1.0.20250503")) for minor in (9, 10, 11, 12, 13)},
}
# Its x86-64 and aarch64 wheels; they ask for a PyTorch of the same months, which pip does not know.
_EXECUTORCH = {(3, minor): ((28, "1.5.1"),) for minor in (10, 11, 12, 13)}
_OPENVINO_ARM_OLD = ((27, "2024.0.0"), (24, "2023.2.0"), (17, "2023.1.0"))
WHEELS = {
    "onnxruntime": {"aarch64": _ONNXRUNTIME, "x86_64": _ONNXRUNTIME},
    "openvino": {
        "aarch64": {
            (3, 8): ((31, "2024.4.0"), *_OPENVINO_ARM_OLD),
            (3, 9): ((35, "2025.3.0"), (31, "2025.2.0"), *_OPENVINO_ARM_OLD),
            (3, 10): ((35, "2026.4.1"), (31, "2025.2.0"), *_OPENVINO_ARM_OLD),
            (3, 11): ((35, "2026.4.1"), (31, "2025.2.0"), *_OPENVINO_ARM_OLD),
            (3, 12): ((35, "2026.4.1"), (31, "2025.2.0")),
            (3, 13): ((35, "2026.4.1"), (31, "2025.2.0")),
        },
        "x86_64": {
            (3, 8): ((17, "2024.4.0"),),
            (3, 9): ((17, "2025.3.0"),),
            **{(3, minor): ((28, "2026.4.1"), (17, "2025.4.1")) for minor in (10, 11, 12, 13)},
        },
    },
    "ai-edge-litert": {"aarch64": _LITERT, "x86_64": _LITERT},
    "ncnn": {"aarch64": _NCNN, "x86_64": _NCNN},
    "executorch": {"aarch64": _EXECUTORCH, "x86_64": _EXECUTORCH},
    "tflite-runtime": {
        "aarch64": _TFLITE_ARM,
        "armv7l": _TFLITE_ARM,
        "x86_64": {(3, minor): ((17, "2.14.0"),) for minor in (8, 9, 10, 11)},
    },
}
PACKAGES = {"litert": "ai-edge-litert", "tflite": "tflite-runtime"}  # where it is not the runtime's own name
READ_BY = {"ai-edge-litert": "tflite-runtime", "tflite-runtime": "ai-edge-litert"}  # the same files
NEWEST = (3, 13)
BESIDE = {"executorch": "numpy torch==2.13.0"}  # what a package needs and does not bring, where that is not NumPy alone
NUMPY_1 = (("tflite-runtime", ""), ("onnxruntime", "1.16."))  # built for it: a package, and how its version begins
VENV = "python3 -m venv ~/.edgesdk/venv && ~/.edgesdk/venv/bin/pip install"  # a system's own Python refuses (PEP 668)


def here(runtime: str) -> str:
    """What :func:`advice` says for this device, with the Python that the agent runs under."""
    library, glibc = platform.libc_ver()
    machine = platform.machine()
    if machine == "aarch64" and sys.maxsize < 1 << 32:  # 32-bit programs under a 64-bit kernel
        machine = "armv7l"
    return own(advice(runtime, sys.version_info[:2], glibc if library == "glibc" else "", machine))


def own(said: str) -> str:
    """``said`` with the commands of this interpreter: its own pip where it is that of a virtual environment."""
    python = shlex.quote(sys.executable or "python3")
    if sys.prefix != sys.base_prefix:
        return said.replace(VENV, f"{python} -m pip install")
    return said.replace(VENV, VENV.replace("python3", python, 1))


def advice(runtime: str, python: tuple[int, int], glibc: str, machine: str) -> str:
    """How to install ``runtime`` for a Python on a machine with that glibc, such as 2.36; empty where it has none.

    The command for the newest wheel that it can take, or a sentence that there is none and what to do instead.
    """
    package = PACKAGES.get(runtime, runtime)
    if package not in WHEELS or (python > NEWEST and machine in WHEELS[package]):
        return f"{VENV} {BESIDE.get(package, 'numpy')} {package}"
    version = _newest(package, python, glibc, machine)
    if version is not None:
        return _command(package, version)
    system = f"Python {python[0]}.{python[1]} and {f'glibc {glibc}' if glibc else 'a library other than glibc'}"
    lack = f"{package} has no wheel for {system} on {machine}"
    other = READ_BY.get(package)
    version = _newest(other, python, glibc, machine) if other else None
    if other and version is not None:
        return f"{lack}, and {other} reads the same files: {_command(other, version)}"
    takes = [name for name in PACKAGES.values() if _newest(name, python, glibc, machine)]
    if takes:
        return f"{lack}: deploy with --runtime litert, for {takes[0]} has one"
    return f"{lack}: use another Python, or a 64-bit system of Debian's or Ubuntu's kind"


def _newest(package: str, python: tuple[int, int], glibc: str, machine: str) -> str | None:
    numbers = glibc.split(".")[:2]
    if len(numbers) < 2 or not all(number.isdigit() for number in numbers):
        return None
    has = tuple(map(int, numbers))
    files = WHEELS[package].get(machine, {}).get(python, ())
    return next((version for least, version in files if has >= (2, least)), None)


def _command(package: str, version: str) -> str:
    is_old = any(package == name and version.startswith(begin) for name, begin in NUMPY_1)
    numpy = "'numpy<2'" if is_old else BESIDE.get(package, "numpy")
    return f"{VENV} {numpy} {package}=={version}"
