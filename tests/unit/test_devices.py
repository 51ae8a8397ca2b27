"""The inventory: what a user calls a device, what is written is read back, and what is wrong with it is said."""

from __future__ import annotations

import multiprocessing
import os
import string
from pathlib import Path

import platformdirs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgesdk.core.errors import EdgeSdkError, StorageError, UsageError
from edgesdk.devices.inventory import KEYS, SCHEMA, Device, add, device, devices, inventory, remove
from edgesdk.devices.pools import Pool, add_pool, find_place, pools

OURS = 'schema = "edgesdk.devices/2"'
TWO = """
schema = "edgesdk.devices/2"  # of this file

[devices.lab-pi-3]
address = "ssh://pi@10.0.0.3:2222"
python = "~/venv/bin/python"
target = "raspberry-pi-4"
install_root = "/opt/model"
key = "/keys/lab.pub"

[devices."bench.2"]
address = "local"
"""


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the inventory is to be; nothing is there yet, and the user has no targets."""
    monkeypatch.setenv("EDGESDK_DEVICES", str(tmp_path / "own" / "devices.toml"))
    monkeypatch.setenv("EDGESDK_PROFILES", str(tmp_path / "none"))
    return tmp_path / "own" / "devices.toml"


@pytest.fixture
def two(path: Path) -> Path:
    """An inventory of two."""
    path.parent.mkdir()
    path.write_text(TWO, "utf-8")
    return path


def test_it_lies_where_the_environment_says_or_among_the_users_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGESDK_DEVICES", "/some/where.toml")
    assert inventory() == Path("/some/where.toml")
    for value in ("", None):
        if value is None:
            monkeypatch.delenv("EDGESDK_DEVICES")
        else:
            monkeypatch.setenv("EDGESDK_DEVICES", value)
        assert inventory() == Path(platformdirs.user_config_dir("edgesdk")) / "devices.toml"


def test_what_it_holds_is_read(two: Path) -> None:
    inventory = devices()
    assert list(inventory) == ["bench.2", "lab-pi-3"]
    assert inventory["lab-pi-3"] == Device(
        "lab-pi-3", "ssh://pi@10.0.0.3:2222", "~/venv/bin/python", "raspberry-pi-4", "/opt/model", "/keys/lab.pub"
    )
    assert inventory["bench.2"] == Device("bench.2", "local")
    assert inventory["bench.2"].local and not inventory["lab-pi-3"].local


def test_what_earlier_versions_wrote_is_read_and_written_anew_as_today(two: Path) -> None:
    before = devices()
    two.write_text(TWO.replace(OURS, "schema = 1").replace("install_root", "root"), "utf-8")
    assert devices() == before
    add(Device("third", "local"))
    assert {name: devices()[name] for name in before} == before
    assert OURS in two.read_text("utf-8") and "\nroot" not in two.read_text("utf-8")


def test_what_is_removed_is_gone_and_the_others_stay(two: Path) -> None:
    before = devices()
    assert remove("bench.2") == two.resolve()
    assert devices() == {"lab-pi-3": before["lab-pi-3"]}
    for name in ("bench.2", "local", "ssh://pi@10.0.0.3:2222"):
        with pytest.raises(UsageError, match=r"there is no device .*: choose one of lab-pi-3"):
            remove(name)
    remove("lab-pi-3")
    assert devices() == {}
    with pytest.raises(UsageError, match="there is none yet"):
        remove("lab-pi-3")


def test_without_an_inventory_there_is_this_machine_and_any_address(path: Path) -> None:
    assert devices() == {}
    assert device("local") == Device("local", "local")
    assert device("ssh://pi@lab") == Device("ssh://pi@lab", "ssh://pi@lab")
    with pytest.raises(UsageError) as raised:
        device("lab")
    assert "'lab'" in raised.value.fact and str(path) in raised.value.fact
    assert all(part in raised.value.remedy for part in ("edgesdk device add", "local", "ssh://user@host"))
    assert not path.parent.exists()  # nothing was made by asking


def test_a_name_means_its_device_and_an_unknown_one_is_refused_with_those_there_are(two: Path) -> None:
    assert device("lab-pi-3") == devices()["lab-pi-3"]
    for text in ("lab-pi-4", "Lab-Pi-3", "", "pi@10.0.0.3", "lab-pi-3 "):
        with pytest.raises(UsageError) as raised:
            device(text)
        assert repr(text) in raised.value.fact and raised.value.exit_code == 2
        assert "bench.2, lab-pi-3" in raised.value.remedy


def test_the_address_of_a_device_is_that_device_so_that_its_key_holds(two: Path) -> None:
    assert device("ssh://pi@10.0.0.3:2222") == devices()["lab-pi-3"]
    assert device("ssh://pi@10.0.0.3") == Device("ssh://pi@10.0.0.3", "ssh://pi@10.0.0.3")
    assert device("local") == Device("local", "local")  # this machine, as this edgesdk runs on it
    add(Device("twin", "ssh://pi@10.0.0.3:2222"))
    with pytest.raises(UsageError, match="lab-pi-3 and twin: say which by its name"):
        device("ssh://pi@10.0.0.3:2222")
    assert device("twin").name == "twin"


@pytest.mark.parametrize(
    "address",
    [
        "ssh://pi@10.0.0.3", "ssh://pi@lab.example.org:22", "ssh://lab", "ssh://lab:65535", "ssh://_my_alias",
        "ssh://pi@[fe80::1%eth0]:22", "ssh://[::1]", "ssh://a.b-c+d@h", "local",
    ],
)  # fmt: skip
def test_an_address_that_ssh_takes_is_taken(path: Path, address: str) -> None:
    assert device(address).address == address


@pytest.mark.parametrize(
    "address",
    [
        "ssh://", "ssh://-oProxyCommand=id", "ssh://pi@-oProxyCommand=id", "ssh://-l@host", "ssh://pi@", "ssh://@host",
        "ssh://pi@host:", "ssh://pi@host:0", "ssh://pi@host:65536", "ssh://pi@host:22:22", "ssh://pi@host/path",
        "ssh://pi@ho st", "ssh://pi@host;id", "ssh://$(id)@host", "ssh://pi@host\n", "ssh://pi@host?x", "ssh://pi@::1",
        "ssh://pi@[::1", "ssh://pi@[host]", "ssh://pi@host:²", "SSH://host", "http://host", "://", "ssh://a@b@c",
        "ssh://pi@höst",
    ],
)  # fmt: skip
def test_an_address_that_is_none_is_refused(path: Path, address: str) -> None:
    for make in (lambda: Device("lab", address), lambda: device(address)):
        with pytest.raises(UsageError) as raised:
            make()
        assert "\n" not in str(raised.value) and raised.value.exit_code == 2


def test_a_password_is_refused_and_not_said_again(path: Path) -> None:
    with pytest.raises(UsageError) as raised:
        device("ssh://pi:raspberry@host")
    assert "password" in raised.value.fact and "raspberry" not in str(raised.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "local"), ("name", ""), ("name", "-n"), ("name", "a b"), ("name", "a/b"), ("name", "x" * 65),
        ("name", "ssh://pi@other"), ("name", "a\nb"), ("name", " a"), ("python", ""), ("python", "-c"),
        ("python", "py\nthon"), ("install_root", "models"), ("install_root", "../models"), ("install_root", "/a\x00b"),
        ("install_root", "~pi/models"),
        ("key", "lab.pub"), ("key", ""), ("key", "/k\x1b[2J"), ("target", "\t"),
    ],
)  # fmt: skip
def test_what_a_device_cannot_be_is_refused(field: str, value: str) -> None:
    sound = {"name": "lab", "address": "ssh://pi@lab"}
    assert Device(**sound).name == "lab"
    with pytest.raises(UsageError) as raised:
        Device(**{**sound, field: value})
    assert field in raised.value.fact or (field == "name" and "cannot be called" in raised.value.fact)
    assert "\n" not in str(raised.value) and "\x1b" not in str(raised.value)


def test_the_key_is_found_in_the_users_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere")
    assert Device("lab", "ssh://lab", key="~/lab.pub").key_file == Path("/somewhere/lab.pub")
    assert Device("lab", "ssh://lab", key="/etc/lab.pub").key_file == Path("/etc/lab.pub")
    assert Device("lab", "ssh://lab").key_file is None


def test_what_is_added_is_there_beside_what_was(two: Path) -> None:
    before = devices()
    new = Device("lab-pi-5", "ssh://pi@10.0.0.5", target="raspberry-pi-5", key="~/lab.pub")
    assert add(new) == two
    assert devices() == {**before, "lab-pi-5": new}
    with pytest.raises(UsageError, match=r"there is a device lab-pi-5 already, at ssh://pi@10\.0\.0\.5"):
        add(Device("lab-pi-5", "local"))
    assert devices() == {**before, "lab-pi-5": new}
    add(Device("lab-pi-5", "local"), force=True)
    assert devices() == {**before, "lab-pi-5": Device("lab-pi-5", "local")}
    assert os.listdir(two.parent) == ["devices.toml"]


def test_a_target_is_kept_by_its_own_name_for_an_alias_may_move(two: Path) -> None:
    add(Device("lab-orin", "ssh://orin@10.0.0.9", target="jetson"))
    assert devices()["lab-orin"].target == "jetson-orin-nano"


def test_the_first_one_makes_the_inventory(path: Path) -> None:
    add(Device("lab", "ssh://pi@lab"))
    assert devices() == {"lab": Device("lab", "ssh://pi@lab")}
    assert f'schema = "{SCHEMA}"\n' in path.read_text("utf-8")


def test_a_link_to_an_inventory_stays_one(two: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = tmp_path / "devices.toml"
    link.symlink_to(two)
    monkeypatch.setenv("EDGESDK_DEVICES", str(link))
    add(Device("lab", "ssh://pi@lab"))
    assert link.is_symlink() and "lab" in devices() and "lab-pi-3" in devices()


@pytest.mark.parametrize("wrong", [Device("lab", "local", target="raspberry-pie"), Device("local", "local")])
def test_what_is_not_to_be_added_changes_nothing(two: Path, wrong: Device) -> None:
    with pytest.raises(UsageError):
        add(wrong)
    assert two.read_text("utf-8") == TWO


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGESDK_DEVICES", str(tmp_path / "file" / "devices.toml"))
    with pytest.raises(StorageError) as raised:
        add(Device("lab", "ssh://pi@lab"))
    assert str(tmp_path / "file") in raised.value.fact


TEXT = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=20)
NAMES = st.text(string.ascii_letters + string.digits, min_size=1, max_size=8).filter(lambda name: name != "local")
DEVICES = st.builds(
    Device,
    NAMES,
    st.sampled_from(["local", "ssh://pi@lab:22", "ssh://[::1]"]),
    python=st.none() | TEXT.filter(lambda text: not text.startswith("-")),
    install_root=st.none() | TEXT.map(lambda text: "/" + text),
    key=st.none() | TEXT.map(lambda text: "~/" + text),
)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(DEVICES, min_size=1, max_size=5, unique_by=lambda device: device.name))
def test_whatever_is_added_is_read_back(path: Path, several: list[Device]) -> None:
    path.unlink(missing_ok=True)
    for entry in several:
        add(entry)
    assert devices() == {entry.name: entry for entry in several}


def _add(number: int) -> None:
    add(Device(f"board-{number}", f"ssh://pi@10.0.0.{number}"))


def test_devices_that_are_added_at_once_are_all_there(path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        pool.map(_add, range(24), chunksize=1)
    assert len(devices()) == 24


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('address = "local"', 'address = "local', "line 12"),
        ('[devices."bench.2"]', '[devices."bench.2"', "line 11"),
        ("target =", "target", "line 7"),
        ('address = "local"', "address = [", "line 12"),
        ('address = "local"', 'address = """local', "line 12"),
        ('[devices."bench.2"]', "[devices.lab-pi-3]", "line 11"),
        ('address = "local"', 'address = "local"\naddress = "local"', "line 13"),
        (OURS, "schema = 3", "update edgesdk"),
        (OURS, 'schema = "edgesdk.devices/3"', "update edgesdk"),
        (OURS, 'schema = "edgesdk.plan/1"', OURS),
        (OURS, 'schema = "2"', OURS),
        (OURS, "schema = true", OURS),
        (OURS, "", OURS),
        (OURS, f"{OURS}\ncolour = 3", "'colour'"),
        ("target =", "tarket =", "'tarket'"),
        ("target =", "name =", "'name'"),
        ('address = "local"', "", "'bench.2'"),
        ('address = "local"', "address = 3", "address"),
        ('address = "local"', 'address = "ssh://-x"', "'ssh://-x'"),
        ('[devices."bench.2"]', "[devices.local]", "'local'"),
        ('[devices."bench.2"]', '[devices.""]', "name"),
        ('[devices."bench.2"]', '[devices."ssh://lab"]', "ssh://lab"),
        ('[devices."bench.2"]\naddress = "local"', "[devices]\nlab = 3", "[devices.NAME]"),
        ('[devices."bench.2"]\naddress = "local"', "[[devices.lab]]\naddress = 3", "[devices.NAME]"),
    ],
)
def test_what_is_wrong_with_an_inventory_is_said(two: Path, old: str, new: str, says: str) -> None:
    assert old in TWO
    text = TWO.replace(old, new)
    two.write_text(text, "utf-8")
    for ask in (devices, lambda: device("lab-pi-3"), lambda: device("ssh://pi@lab"), lambda: add(Device("x", "local"))):
        with pytest.raises(UsageError) as raised:
            ask()
        assert says in str(raised.value) and str(two) in str(raised.value)
        assert "\n" not in str(raised.value) and raised.value.remedy
    assert two.read_text("utf-8") == text and os.listdir(two.parent) == ["devices.toml"]
    assert device("local").local  # which needs no inventory


POOLS = (
    TWO
    + """
[pools.lab]
devices = ["lab-pi-3", "bench.2"]
"""
)


@pytest.fixture
def pooled(path: Path) -> Path:
    """An inventory of two, which are a pool."""
    path.parent.mkdir()
    path.write_text(POOLS, "utf-8")
    return path


def test_a_pool_is_its_boards(pooled: Path) -> None:
    boards = tuple(devices()[name] for name in ("lab-pi-3", "bench.2"))
    assert find_place("pool:lab") == Pool("pool:lab", boards) and find_place("pool:lab").target == "raspberry-pi-4"
    assert find_place(["lab-pi-3", "bench.2"]) == Pool("lab-pi-3 and bench.2", boards)
    assert find_place(["lab-pi-3"]) == find_place("lab-pi-3") == boards[0]
    third = Device("ssh://pi@lab", "ssh://pi@lab")
    both = find_place(["pool:lab", "ssh://pi@lab"])
    assert isinstance(both, Pool) and both.devices == (*boards, third)
    with pytest.raises(UsageError) as raised:
        device("pool:lab")
    assert "pool:lab" in raised.value.fact and "lab-pi-3, bench.2" in raised.value.remedy


def test_a_pool_is_written_and_stays_until_it_is_removed(two: Path) -> None:
    assert pools() == {}
    assert add_pool("lab", ["bench.2", "lab-pi-3"]) == two.resolve()
    add(Device("third", "ssh://third"))
    assert pools() == {"lab": ("bench.2", "lab-pi-3")}
    with pytest.raises(UsageError, match=r"there is a pool lab already, of bench\.2, lab-pi-3: give --force"):
        add_pool("lab", ["third"])
    add_pool("lab", ["third", "bench.2"], force=True)
    with pytest.raises(UsageError, match=r"third is in pool:lab: write the pool anew without it"):
        remove("third")
    with pytest.raises(UsageError, match=r"there is no pool 'lap' in .*: choose one of lab"):
        remove("pool:lap")
    before = devices()
    remove("pool:lab")
    assert (pools(), devices()) == ({}, before)


@pytest.mark.parametrize(
    ("members", "says"),
    [
        (["bench.3"], "'bench.3', which is no device of .*: bench.2 may be meant; there is bench.2, lab-pi-3"),
        (["bench.2", "bench.2"], "one board twice: bench.2 at local"),
        (["bench.2", "twin"], "one board twice: bench.2 and twin at local"),
        (["lab-pi-3", "other"], "of different kinds: lab-pi-3 is raspberry-pi-4, other is raspberry-pi-5"),
        ([], "pool:lab is empty"),
        (["pool:lab"], "'pool:lab', which is no device"),
    ],
)
def test_what_can_be_no_pool_is_refused_where_it_is_written_and_where_it_is_used(
    two: Path, members: list[str], says: str
) -> None:
    add(Device("twin", "local"))
    add(Device("other", "ssh://other", target="raspberry-pi-5"))
    text = two.read_text("utf-8")
    with pytest.raises(UsageError, match=says):
        add_pool("lab", members)
    assert two.read_text("utf-8") == text
    two.write_text(f"{text}\n[pools.lab]\ndevices = {members}\n", "utf-8")
    with pytest.raises(UsageError, match=says):
        find_place("pool:lab")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('devices = ["lab-pi-3", "bench.2"]', "", "lists no devices"),
        ('devices = ["lab-pi-3", "bench.2"]', "devices = [3]", "lists no devices"),
        ('devices = ["lab-pi-3", "bench.2"]', 'devices = "lab-pi-3"', "lists no devices"),
        ("[pools.lab]", "[pools.lab]\nboards = []", "'boards'"),
        ("[pools.lab]", '[pools."a b"]', "a pool cannot be called 'a b'"),
        ("[pools.lab]\n", "[pools]\nlab = 3\n", "[pools.NAME]"),
    ],
)
def test_what_is_wrong_with_a_pool_of_an_inventory_is_said(pooled: Path, old: str, new: str, says: str) -> None:
    assert old in POOLS
    pooled.write_text(POOLS.replace(old, new), "utf-8")
    for ask in (devices, pools, lambda: find_place("pool:lab"), lambda: remove("pool:lab")):
        with pytest.raises(UsageError) as raised:
            ask()
        assert says in str(raised.value) and str(pooled) in str(raised.value)


def test_a_pool_that_nobody_knows_is_said_with_what_comes_nearest(pooled: Path) -> None:
    for text, says in (("pool:lap", "pool:lab may be meant; there is pool:lab"), ("pool:x", "there is pool:lab")):
        with pytest.raises(UsageError) as raised:
            find_place(text)
        assert repr(text) in raised.value.fact and raised.value.remedy == says
    remove("pool:lab")
    with pytest.raises(UsageError, match="there is none yet: edgesdk device pool"):
        find_place("pool:lab")
    for name in ("a b", "", "pool:x", "-x"):
        with pytest.raises(UsageError, match="cannot be called"):
            add_pool(name, ["bench.2"])


def test_an_inventory_that_is_no_text_is_said_to_be_with_its_line(two: Path) -> None:
    two.write_bytes(b"schema = 1\n# caf\xe9\n")
    with pytest.raises(UsageError, match=r"line 2 of .* is no UTF-8"):
        devices()


def test_a_folder_is_no_inventory(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(EdgeSdkError, match="cannot be read: Is a directory"):
        devices()


def test_every_key_is_written(path: Path) -> None:
    full = Device("lab", "ssh://lab", "python3.9", "raspberry-pi-4", "~", "~/k.pub")
    assert all(getattr(full, key) is not None for key in KEYS)
    add(full)
    assert devices()["lab"] == full
