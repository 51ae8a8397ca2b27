"""Signatures of bundles: what was signed passes, and nothing else, with real keys and without a network."""

from __future__ import annotations

import builtins
import json
import os
import shutil
import socket
import subprocess
import sys
from base64 import b64decode, b64encode
from collections.abc import Callable
from pathlib import Path

import model_signing
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from edgesdk.bundle.signing import CURVES, SIGNATURE, check_signature, sign
from edgesdk.core.errors import BundleError, EdgeSdkError, StorageError, UsageError

FILES = {
    "manifest.json": b'{"schema": 1}',
    "model.onnx": bytes(range(256)) * 40,
    "run.py": b"print()\n",
    ".gitattributes": b"*.onnx binary\n",
}


def written(key, folder: Path, name: str, password: bytes | None = None) -> tuple[Path, Path]:
    """The private and the public file of ``key``."""
    private, public = folder / name, folder / f"{name}.pub"
    hidden = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, hidden))
    public.write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return private, public


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return written(ec.generate_private_key(ec.SECP256R1()), tmp_path_factory.mktemp("keys"), "own")


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return written(ec.generate_private_key(ec.SECP256R1()), tmp_path_factory.mktemp("others"), "other")


@pytest.fixture
def unsigned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is a bundle as far as a signature goes, on a machine that reaches nobody."""

    def refuse(*_: object) -> None:
        raise AssertionError("a connection was asked for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    folder = tmp_path / "bundle"
    folder.mkdir()
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def bundle(unsigned: Path, keys: tuple[Path, Path]) -> Path:
    sign(unsigned, keys[0])
    return unsigned


def refused(folder: Path, key: Path) -> str:
    """What is said of a bundle that does not pass."""
    with pytest.raises(BundleError) as raised:
        check_signature(folder, key)
    assert "\n" not in str(raised.value) and raised.value.remedy and raised.value.exit_code == 8
    return raised.value.fact


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=CURVES)
def test_what_was_signed_passes(unsigned: Path, tmp_path: Path, curve: ec.EllipticCurve) -> None:
    private, public = written(ec.generate_private_key(curve), tmp_path, "key")
    assert sign(unsigned, private) == unsigned / SIGNATURE
    check_signature(unsigned, public)
    assert sorted(os.listdir(unsigned)) == sorted([*FILES, SIGNATURE])
    assert {name: (unsigned / name).read_bytes() for name in FILES} == FILES


def test_keys_that_openssl_makes_as_the_remedy_says_do(unsigned: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as raised:
        sign(unsigned, tmp_path / "KEY")
    commands = raised.value.remedy.removeprefix("make one: ").split(", and its public half: ")
    assert len(commands) == 2
    for command in commands:
        subprocess.run(command.split(), cwd=tmp_path, check=True, capture_output=True)
    sign(unsigned, tmp_path / "KEY")
    check_signature(unsigned, tmp_path / "KEY.pub")


def test_a_copy_passes_under_any_name_and_through_a_link(
    bundle: Path, keys: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(bundle, tmp_path / "elsewhere" / "other name")
    check_signature(tmp_path / "elsewhere" / "other name", keys[1])
    (tmp_path / "current").symlink_to(bundle)
    check_signature(tmp_path / "current", keys[1])
    monkeypatch.chdir(bundle)
    check_signature(Path("."), keys[1])


def test_it_is_signed_anew_after_a_change(bundle: Path, keys: tuple[Path, Path]) -> None:
    (bundle / "model.onnx").write_bytes(b"another")
    assert "model.onnx" in refused(bundle, keys[1])
    sign(bundle, keys[0])
    check_signature(bundle, keys[1])


def test_what_the_format_s_own_tool_signed_passes_and_the_other_way_round(
    unsigned: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    tool = [sys.executable, "-m", "model_signing"]
    file, flag = str(unsigned / SIGNATURE), ["--ignore-paths", str(unsigned / SIGNATURE), "--no-ignore-git-paths"]
    given = [str(unsigned), "--signature", file, *flag]
    subprocess.run([*tool, "sign", "key", *given, "--private_key", str(keys[0])], check=True, capture_output=True)
    check_signature(unsigned, keys[1])
    sign(unsigned, keys[0])
    subprocess.run([*tool, "verify", "key", *given, "--public_key", str(keys[1])], check=True, capture_output=True)


def test_an_unsigned_bundle_is_refused(unsigned: Path, keys: tuple[Path, Path]) -> None:
    assert refused(unsigned, keys[1]) == f"{unsigned} is not signed"


def test_a_bundle_that_another_signed_is_refused(
    bundle: Path, keys: tuple[Path, Path], others: tuple[Path, Path]
) -> None:
    assert f"another key than {others[1]}" in refused(bundle, others[1])
    # A signature that names the key that is asked for, and is of another all the same.
    own = json.loads((bundle / SIGNATURE).read_text())["verificationMaterial"]["publicKey"]
    sign(bundle, others[0])
    forged = json.loads((bundle / SIGNATURE).read_text())
    forged["verificationMaterial"]["publicKey"] = own
    (bundle / SIGNATURE).write_text(json.dumps(forged))
    assert f"another key than {keys[1]}" in refused(bundle, keys[1])
    del forged["verificationMaterial"]["publicKey"]["hint"]
    (bundle / SIGNATURE).write_text(json.dumps(forged))
    assert f"another key than {keys[1]}" in refused(bundle, keys[1])


def _in_folder(name: str) -> Callable[[Path], None]:
    def add(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"new")

    return add


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda folder: (folder / "model.onnx").write_bytes(FILES["model.onnx"][:-1] + b"\x00"), "model.onnx"),
        (lambda folder: (folder / "manifest.json").write_bytes(b'{"schema": 1 }'), "manifest.json"),
        (lambda folder: (folder / ".gitattributes").write_bytes(b""), ".gitattributes"),
        (lambda folder: (folder / "run.py").unlink(), "run.py"),
        (lambda folder: (folder / "run.py").rename(folder / "go.py"), "go.py"),
        (_in_folder("extra.so"), "extra.so"),
        (_in_folder(".hidden"), ".hidden"),
        (_in_folder(".git/hook"), ".git/hook"),
        (_in_folder("__pycache__/run.pyc"), "__pycache__/run.pyc"),
        (_in_folder("model.sig.bak"), "model.sig.bak"),
    ],
)
def test_whatever_is_changed_is_found_and_named(
    bundle: Path, keys: tuple[Path, Path], change: Callable[[Path], object], named: str
) -> None:
    change(bundle)
    fact = refused(bundle, keys[1])
    assert f"{bundle} is not what was signed" in fact and repr(named) in fact


def test_of_many_changes_a_few_are_named(bundle: Path, keys: tuple[Path, Path]) -> None:
    for number in range(500):
        (bundle / f"file-{number:03}").write_bytes(b"")
    fact = refused(bundle, keys[1])
    assert "'file-000', 'file-001', 'file-002' and more" in fact and "file-003" not in fact


def test_a_signature_that_leaves_files_out_does_not_do(bundle: Path, keys: tuple[Path, Path]) -> None:
    hashing = model_signing.hashing.Config().set_ignored_paths(paths=[SIGNATURE, "model.onnx"])
    signer = model_signing.signing.Config().set_hashing_config(hashing)
    signer.use_elliptic_key_signer(private_key=keys[0]).sign(bundle, bundle / SIGNATURE)
    (bundle / "model.onnx").write_bytes(b"anything")
    model_signing.verifying.Config().use_elliptic_key_verifier(public_key=keys[1]).verify(bundle, bundle / SIGNATURE)
    fact = refused(bundle, keys[1])
    assert "'model.onnx'" in fact and "'.gitattributes'" in fact


@pytest.mark.parametrize("algorithm", ["blake2", "blake3"])
def test_a_signature_over_other_digests_does_not_do(bundle: Path, keys: tuple[Path, Path], algorithm: str) -> None:
    hashing = model_signing.hashing.Config().use_file_serialization(hashing_algorithm=algorithm)  # type: ignore[arg-type]
    hashing.set_ignored_paths(paths=[SIGNATURE], ignore_git_paths=False)
    signer = model_signing.signing.Config().set_hashing_config(hashing)
    signer.use_elliptic_key_signer(private_key=keys[0]).sign(bundle, bundle / SIGNATURE)
    assert "is not what was signed" in refused(bundle, keys[1])


def _payload(change: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    def damage(content: bytes) -> bytes:
        document = json.loads(content)
        envelope = document["dsseEnvelope"]
        envelope["payload"] = b64encode(change(b64decode(envelope["payload"]))).decode()
        return json.dumps(document).encode()

    return damage


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda content: b"", "is damaged"),
        (lambda content: b"[]", "is damaged"),
        (lambda content: b"{}", "is damaged"),
        (lambda content: b"\xff\xfe", "is damaged"),
        (lambda content: content[: len(content) // 2], "is damaged"),
        (lambda content: b"[" * 100_000, "is damaged"),
        (lambda content: content.replace(b"v0.3", b"v0.9"), "is damaged"),
        (lambda content: content.replace(b'"signatures"', b'"signaturez"'), "is damaged"),
        (_payload(lambda payload: payload.replace(b"run.py", b"rum.py")), "another key"),
        (_payload(lambda payload: b""), "another key"),
    ],
)
def test_a_damaged_signature_is_refused(
    bundle: Path, keys: tuple[Path, Path], damage: Callable[[bytes], bytes], says: str
) -> None:
    before = (bundle / SIGNATURE).read_bytes()
    assert damage(before) != before
    (bundle / SIGNATURE).write_bytes(damage(before))
    assert says in refused(bundle, keys[1])


def test_every_byte_of_a_signature_s_payload_counts(bundle: Path, keys: tuple[Path, Path]) -> None:
    content = (bundle / SIGNATURE).read_bytes()
    for place in range(0, len(content), 97):
        changed = bytearray(content)
        changed[place] ^= 1
        (bundle / SIGNATURE).write_bytes(changed)
        try:
            check_signature(bundle, keys[1])
        except BundleError:
            continue
        # What passes says the same in other letters: outside of what is signed, as in the name of a field nobody reads.
        before, after = json.loads(content), json.loads(changed)
        assert after["dsseEnvelope"]["payload"] == before["dsseEnvelope"]["payload"]


@pytest.mark.parametrize("link", ["model.onnx", SIGNATURE, "extra"])
def test_links_are_refused(bundle: Path, keys: tuple[Path, Path], tmp_path: Path, link: str) -> None:
    if (bundle / link).exists():
        (bundle / link).rename(tmp_path / link)
    (bundle / link).symlink_to(tmp_path / link)
    assert f"{bundle / link} is a link" in refused(bundle, keys[1])
    with pytest.raises(BundleError, match="is a link"):
        sign(bundle, keys[0])


def test_what_is_no_bundle_is_neither_signed_nor_checked(
    unsigned: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "nowhere", unsigned / "run.py"):
        assert "is no bundle" in refused(folder, keys[1])
        with pytest.raises(BundleError, match="is no bundle"):
            sign(folder, keys[0])
    assert os.listdir(tmp_path / "empty") == []


def _odd_keys(folder: Path) -> dict[str, tuple[Path, Path]]:
    folder.mkdir()
    (folder / "text").write_text("no key")
    (folder / "empty").write_text("")
    return {
        "missing": (folder / "none", folder / "none"),
        "a folder": (folder, folder),
        "text": (folder / "text", folder / "text"),
        "empty": (folder / "empty", folder / "empty"),
        "ed25519": written(ed25519.Ed25519PrivateKey.generate(), folder, "ed25519"),
        "rsa": written(rsa.generate_private_key(65537, 2048), folder, "rsa"),
        "secp256k1": written(ec.generate_private_key(ec.SECP256K1()), folder, "secp256k1"),
    }


def test_what_is_no_key_for_it_is_said(bundle: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    signature = (bundle / SIGNATURE).read_bytes()
    odd = {**_odd_keys(tmp_path / "odd"), "the other half": (keys[1], keys[0])}
    says = {
        "missing": "No such file", "a folder": "Is a directory", "text": "no PEM", "empty": "no PEM",
        "ed25519": "of another kind", "rsa": "of another kind", "secp256k1": "on the curve secp256k1",
        "the other half": "no PEM file of a",
    }  # fmt: skip
    assert set(says) == set(odd)
    for name, (private, public) in odd.items():
        for ask, key in ((sign, private), (check_signature, public)):
            with pytest.raises(UsageError) as raised:
                ask(bundle, key)
            assert says[name] in raised.value.fact and str(key) in raised.value.fact, name
            assert "\n" not in str(raised.value)
    assert (bundle / SIGNATURE).read_bytes() == signature


def test_a_key_with_a_passphrase_is_refused(unsigned: Path, tmp_path: Path) -> None:
    private, _ = written(ec.generate_private_key(ec.SECP256R1()), tmp_path, "locked", b"secret")
    with pytest.raises(UsageError, match="has a passphrase"):
        sign(unsigned, private)
    assert not (unsigned / SIGNATURE).exists()


def test_nothing_is_said_on_stdout(bundle: Path, keys: tuple[Path, Path], capfd: pytest.CaptureFixture[str]) -> None:
    document = json.loads((bundle / SIGNATURE).read_text())
    del document["verificationMaterial"]["publicKey"]["hint"]  # as version 1.0 wrote it, which the library warns of
    (bundle / SIGNATURE).write_text(json.dumps(document))
    check_signature(bundle, keys[1])
    sign(bundle, keys[0])
    assert capfd.readouterr() == ("", "")


def test_a_signature_that_cannot_be_written_is_said(unsigned: Path, keys: tuple[Path, Path]) -> None:
    (unsigned / SIGNATURE).mkdir()
    with pytest.raises(StorageError, match="Is a directory"):
        sign(unsigned, keys[0])
    assert sorted(os.listdir(unsigned)) == sorted([*FILES, SIGNATURE])


@pytest.mark.parametrize(
    ("lacks", "says"),
    [("model_signing", "model-signing is not installed"), ("OpenSSL", "model-signing cannot be imported: no OpenSSL")],
)
def test_without_the_library_it_is_said_what_to_install(
    bundle: Path, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, lacks: str, says: str
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "model_signing"]:
        monkeypatch.delitem(sys.modules, name)
    real = builtins.__import__

    def absent(name: str, *args: object, **kwargs: object) -> object:
        if name.partition(".")[0] == lacks:
            raise ImportError(f"no {lacks}", name=lacks)
        return real(name, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", absent)
    for ask, key in ((sign, keys[0]), (check_signature, keys[1])):
        with pytest.raises(EdgeSdkError) as raised:
            ask(bundle, key)
        assert str(raised.value) == f"{says}: pip install 'edgesdk[sign]'"
        assert raised.value.exit_code == 1
