"""A device that fails as it is told: its Python imports this file as it starts.

Without ``fault.json`` in the device's home folder it does nothing. With it, ``mode`` says what happens:

- ``kill``, ``drop``, ``reboot``, ``full``, ``denied``, ``wait`` at the file operation that ``event`` (names of audit
  events), ``path`` (a pattern of paths below the home folder), ``writes`` (whether a file is opened for writing),
  ``child`` (whether it is in a process that another Python of the device started) and ``skip`` (so many of them go
  well) describe. It happens once: ``fired`` in the home folder says that it did.
- ``print`` writes ``text`` on stdout as the interpreter starts, ``flood`` goes on for ``bytes`` bytes, in lines of
  ``line`` bytes or without any end where that is 0, ``silent`` never answers.
- ``digest`` makes SHA-256 wrong, after ``skip`` right ones. ``clock`` moves the system's time by ``seconds``, forth
  and back at each look. ``slow`` is a processor with a lower clock: what is timed takes ``times`` as long.
"""

import errno
import fnmatch
import json
import os
import signal
import sys
import time

HOME = os.environ.get("HOME", "/nonexistent")
EVENTS = ("open", "os.rename", "os.mkdir", "os.symlink", "os.remove", "os.rmdir", "os.truncate", "os.link")


def order():
    """What is to go wrong in this process, if anything."""
    try:
        with open(os.path.join(HOME, "fault.json")) as file:
            return json.load(file)
    except OSError:
        return None


def fired():
    """Say that it happened; whether this process is the first to do so."""
    try:
        os.close(os.open(os.path.join(HOME, "fired"), os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        return False
    return True


def sshd():
    """The numbers of the processes of the SSH server that this process runs under, the listening one left out."""
    paths, number = [], os.getpid()
    while number > 1:
        with open(f"/proc/{number}/stat") as file:
            name, _, rest = file.read().partition(" (")[2].rpartition(") ")
        if name.startswith("sshd"):
            paths.append(number)
        number = int(rest.split()[1])
    return paths[:-1]


def below_home(path, folder):
    """``path`` from the home folder on, or ``None`` where it is elsewhere; ``folder`` is a descriptor or -1."""
    if isinstance(path, int):
        return None
    path = os.fsdecode(path)
    if not os.path.isabs(path):
        path = os.path.join(os.readlink(f"/proc/self/fd/{folder}") if folder >= 0 else os.getcwd(), path)
    return path[len(HOME) + 1 :] if path.startswith(HOME + "/") else None


def places(event, args):
    """The paths that an audited operation is on."""
    if event == "os.rename" or event == "os.link":
        return [below_home(args[0], args[2]), below_home(args[1], args[3])]
    if event == "os.symlink":
        return [below_home(args[1], args[2])]
    if event in ("os.remove", "os.rmdir"):
        return [below_home(args[0], args[1])]
    if event == "os.mkdir":
        return [below_home(args[0], args[2])]
    return [below_home(args[0], -1)]


def writes(event, args):
    return event != "open" or bool(args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


def drop_slower(mode, seconds):
    if mode == "wait":
        time.sleep(seconds)
    if mode == "full":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if mode == "denied":
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    if mode in ("drop", "reboot"):
        for number in sshd():
            os.kill(number, signal.SIGKILL)
    if mode in ("kill", "reboot"):
        os.kill(os.getpid(), signal.SIGKILL)


def is_child():
    """Whether another Python with this file in it started this process."""
    mark = "EDGESDK_TEST_PARENT"
    started = mark in os.environ
    os.environ[mark] = str(os.getpid())
    return started


def watch(fault):
    child = is_child()
    left = [fault.get("skip", 0)]
    inside = []

    def hook(event, args):
        if inside or event not in EVENTS or event not in fault["event"]:
            return
        inside.append(event)  # what is looked up here is audited too
        try:
            there = [place for place in places(event, args) if place is not None]
            if not any(fnmatch.fnmatchcase(place, fault["path"]) for place in there):
                return
            if fault.get("child") not in (None, child):
                return
            if fault.get("writes") not in (None, writes(event, args)):
                return
            left[0] -= 1
            if left[0] < 0 and fired():
                drop_slower(fault["mode"], fault.get("seconds"))
        finally:
            inside.clear()

    sys.addaudithook(hook)


def flood(fault):
    piece = b"x" * (1 << 16)
    if fault["line"]:
        piece = (b"x" * (fault["line"] - 1) + b"\n") * max(1, (1 << 16) // fault["line"])
    left = fault["bytes"]
    while left > 0:
        left -= os.write(1, piece)


def wrong_digests(skip):
    import hashlib

    right, made = hashlib.sha256, []

    class Wrong:
        def __init__(self, *content):
            made.append(self)
            self.state, self.wrong = right(*content), len(made) > skip

        def update(self, content):
            self.state.update(content)

        def hexdigest(self):
            digest = self.state.hexdigest()
            if self.wrong:
                fired()
            return digest[::-1] if self.wrong else digest

    hashlib.sha256 = Wrong


def jumping_clock(seconds):
    now, looks = time.time, []

    def jumped():
        looks.append(None)
        return now() + (seconds if len(looks) % 2 else -seconds)

    time.time = jumped


def slow(times):
    ns, seconds = time.perf_counter_ns, time.perf_counter
    time.perf_counter_ns = lambda: int(ns() * times)
    time.perf_counter = lambda: seconds() * times


FAULT = order()
if FAULT is not None:
    if FAULT["mode"] in ("print", "flood"):
        os.write(1, FAULT["text"].encode())
    if FAULT["mode"] == "flood":
        flood(FAULT)
    elif FAULT["mode"] == "silent":
        time.sleep(3600)
    elif FAULT["mode"] == "digest":
        wrong_digests(FAULT.get("skip", 0))
    elif FAULT["mode"] == "clock":
        jumping_clock(FAULT["seconds"])
    elif FAULT["mode"] == "slow":
        slow(FAULT["times"])
    elif FAULT["mode"] != "print":
        watch(FAULT)
