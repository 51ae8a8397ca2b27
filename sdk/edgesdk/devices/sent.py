"""An agent that is sent to where it runs: nothing of edgesdk needs to be installed there."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgesdk.core.errors import BundleError, DeviceError, EdgeSdkError, StorageError
from edgesdk.devices.agent import AgentProcess, Child, Limit
from edgesdk.devices.archive import agent_archive

OLD, FULL = 97, 98  # exit codes: of a Python that is too old, and where its archive cannot be written
READY = b"edgesdk agent ready"
BANNER_BYTES = 1 << 16  # what a login shell may print before that
BEGIN_SECONDS = 60.0
PIECE_BYTES = 1 << 20
# Whatever Python is there must be able to read this, so as to say that it is too old. It takes the archive from stdin,
# holds a lock beside it for as long as it lives (the agent's scratch.py clears up after the dead), and becomes it.
BOOTSTRAP = f"""
import os, sys
if sys.version_info < (3, 8):
    sys.stderr.write("Python %d.%d is too old\\n" % sys.version_info[:2])
    sys.exit({OLD})
import atexit, fcntl, runpy, shutil, tempfile
size, parts = int(sys.argv[2]), []
while size:
    part = os.read(0, min(size, 65536))
    if not part:
        sys.exit("the agent did not arrive")
    size -= len(part)
    parts.append(part)
try:
    folder = tempfile.mkdtemp(prefix="edgesdk-agent-")
    atexit.register(shutil.rmtree, folder, True)
    lock = os.open(os.path.join(folder, ".lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    path = os.path.join(folder, "agent.pyz")
    with open(path, "wb") as file:
        file.write(b"".join(parts))
except OSError as error:
    sys.stderr.write("the agent cannot be written to %s: %s\\n" % (tempfile.gettempdir(), error.strerror))
    sys.exit({FULL})
os.write(1, b"{READY.decode()}\\n")
sys.argv = [path]
sys.path.insert(0, path)
runpy.run_path(path, run_name="__main__")
"""


def program(content: bytes) -> tuple[str, ...]:
    """The arguments of a Python that is to read ``content`` from stdin and be that agent. No quotes are in them."""
    code = base64.b64encode(BOOTSTRAP.encode()).decode()
    return ("-c", "import base64,sys;exec(base64.b64decode(sys.argv[1]))", code, str(len(content)))


class SentAgent(AgentProcess):
    """An agent in a Python that ``command`` starts with the arguments of :func:`program`."""

    here = False

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None, where: str) -> None:
        super().__init__(command, environment, where)
        self._placed: dict[tuple[str, ...], str] = {}

    def close(self) -> None:
        super().close()
        self._placed.clear()  # its folder is gone with it

    def begin(self, child: Child, limit: Limit) -> None:
        """Send the archive, and wait until it is running. What a login shell prints before is left out."""
        limit = Limit(BEGIN_SECONDS, BEGIN_SECONDS) if limit.end is None else limit
        child.send(agent_archive(), limit)
        printed = 0
        while (line := child.receive(limit)) is None or line.strip() != READY:
            if line is None:
                raise self.death(child)
            printed += len(line)
            if printed > BANNER_BYTES:
                fact = f"{self.where} prints without end before the agent begins"
                raise DeviceError(fact, "look at what its login shell prints")

    def death(self, child: Child) -> EdgeSdkError:
        code, fact = child.exit_code(), f"{self.where}: {child.last_words()}"
        if code == OLD:
            return DeviceError(fact, "install Python 3.8 or newer there, and name it: edgesdk device add --python")
        if code == FULL:
            return StorageError(fact, "free some space there, or set TMPDIR to a folder with more")
        return super().death(child)

    def place(self, *files: Path) -> str:
        """Send ``files`` into one folder there, unless they are there. Raises ``BundleError`` for one that is not."""
        try:
            contents = [file.read_bytes() for file in files]
        except OSError as error:
            raise BundleError(f"{error.filename} cannot be read: {error.strerror}", "export it again") from None
        digests = [hashlib.sha256(content).hexdigest() for content in contents]
        key = (*(file.name for file in files), *digests)
        if self._child is None or key not in self._placed:
            folder = hashlib.sha256("\n".join(key).encode()).hexdigest()[:16]
            paths = [
                self.put(f"{folder}/{file.name}", content, digest)
                for file, content, digest in zip(files, contents, digests, strict=True)
            ]
            self._placed[key] = paths[0]
        return self._placed[key]

    def forget(self) -> None:
        """Remove from there all that was placed: a device has little room for every candidate of a search."""
        for name in {Path(path).parent.name for path in self._placed.values()}:
            self.call("drop", name=name)
        self._placed.clear()

    def put(self, name: str, content: bytes, digest: str) -> str:
        """Write a file below the agent's own folder; its path there. In pieces, the last of which has the digest."""
        place = ""
        for offset in range(0, max(1, len(content)), PIECE_BYTES):
            piece = content[offset : offset + PIECE_BYTES]
            last = offset + PIECE_BYTES >= len(content)
            data = base64.b64encode(piece).decode()
            place = self.call("put", name=name, data=data, offset=offset, sha256=digest if last else None)["path"]
        return place


class OtherPython(SentAgent):
    """This machine as a device, through another Python: one with other packages, or an emulated one."""

    def __init__(self, python: str) -> None:
        super().__init__((python, *program(agent_archive())), None, f"this machine ({python})")
