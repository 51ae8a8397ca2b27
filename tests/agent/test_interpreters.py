"""The agent's tests in every other Python on this machine that the agent is for, and its refusal in those it is not.

Run by pytest; the tests themselves are ``test_agent_*.py``, in unittest, as other Pythons have nothing else.
"""

from __future__ import annotations

import glob
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from slow import core

import edgesdk_targets

HERE = os.path.dirname(os.path.abspath(__file__))
ASK = "import sys; print('%d.%d' % sys.version_info[:2])"
VERSIONS = [(3, minor) for minor in range(5, 15)]


def version(name: str) -> tuple[int, ...]:
    return tuple(map(int, name.split(".")))


def interpreters() -> dict[str, str]:
    """By version, such as 3.8, a Python on the path or of pyenv's. This one stands in where there is no other."""
    root = os.environ.get("PYENV_ROOT", os.path.expanduser("~/.pyenv"))
    interpreters = {}
    for major, minor in VERSIONS:
        name = f"{major}.{minor}"
        paths = [shutil.which(f"python{name}"), *sorted(glob.glob(f"{root}/versions/{name}.*/bin/python"))]
        for path in filter(None, paths):
            told = subprocess.run([path, "-c", ASK], capture_output=True)
            if told.stdout.decode().strip() == name:  # a shim of pyenv's may be there for a version that is not
                interpreters[name] = path
                break
    here = "%d.%d" % sys.version_info[:2]
    return {name: path for name, path in interpreters.items() if name != here} or {here: sys.executable}


FOUND = interpreters()
OLDEST = next((name for name in FOUND if version(name) >= (3, 8)), None)


@pytest.mark.parametrize("name", core(FOUND, lambda name: version(name) < (3, 8) or name == OLDEST))
def test_the_agent(name: str, tmp_path: Path) -> None:
    package = Path(edgesdk_targets.__file__).parent
    (tmp_path / package.name).symlink_to(package)  # alone: what lies beside it is for this Python
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment["PYTHONPATH"] = str(tmp_path)
    is_old = version(name) < (3, 8)
    what = ["edgesdk_targets.agent"] if is_old else ["unittest", "discover", "-p", "test_agent_*.py"]
    done = subprocess.run(
        [FOUND[name], "-m", *what],
        cwd=HERE,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
    )
    if is_old:
        said = f"the edgesdk agent needs Python 3.8 or newer, and this is {name}\n"
        assert (done.returncode, done.stdout, done.stderr) == (1, "", said)
    else:
        assert done.returncode == 0, done.stderr[-5000:]
        assert "Ran 0 tests" not in done.stderr
