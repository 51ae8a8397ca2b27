"""Bundles signed with an elliptic-curve key that lies on a disk, in OpenSSF's format for models, without a network.

The signature is a file of the folder, and covers every other file in it, ``manifest.json`` among them. The command
``model_signing verify key`` reads it as well.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgesdk.core.errors import BundleError, EdgeSdkError, StorageError, UsageError
from edgesdk.core.serialize import write

SIGNATURE = "model.sig"
CURVES = ("secp256r1", "secp384r1", "secp521r1")  # those that the format has
NEW_KEY = (
    "make one: openssl ecparam -name prime256v1 -genkey -noout -out KEY, and its public half: "
    "openssl ec -in KEY -pubout -out KEY.pub"
)
NAMED = 3  # of the files that differ


def sign(folder: Path, key: Path) -> Path:
    """Sign every file of the bundle ``folder`` with the private ``key``, a PEM file; the signature's path.

    A signature that is there is replaced. What comes into the folder later makes the signature void. Raises
    ``UsageError`` where ``key`` is no such key, ``BundleError`` where ``folder`` is no bundle or has links in it,
    ``StorageError`` where it cannot be read or written, ``EdgeSdkError`` where model-signing is not installed.
    """
    library = _library()
    folder = folder.resolve()
    _files(folder)
    _check_key(key, private=True)
    signer = library.signing.Config().set_hashing_config(_hashing(library)).use_elliptic_key_signer(private_key=key)
    try:
        with tempfile.TemporaryDirectory(prefix="edgesdk-sign-") as scratch:
            signer.sign(folder, Path(scratch) / SIGNATURE)
            content = (Path(scratch) / SIGNATURE).read_bytes()
    except OSError as error:
        raise StorageError(f"{folder} cannot be signed: {error.strerror}", "see that it can be read") from None
    write(folder / SIGNATURE, content)
    return folder / SIGNATURE


def check_private(key: Path) -> None:
    """Raise ``UsageError`` unless ``key`` is one to sign with, before any long work."""
    _library()
    _check_key(key, private=True)


def check_signature(folder: Path, key: Path) -> None:
    """Raise ``BundleError`` unless ``folder`` holds exactly what the owner of the public ``key`` signed.

    Raises ``UsageError`` where ``key`` is no PEM file of such a key, ``EdgeSdkError`` where model-signing is not
    installed.
    """
    library = _library()
    from cryptography.exceptions import InvalidSignature  # comes with it

    folder = folder.resolve()
    _files(folder)
    _check_key(key, private=False)
    if not (folder / SIGNATURE).is_file():
        raise BundleError(f"{folder} is not signed", "deploy it with --sign KEY")
    verifier = library.verifying.Config().set_hashing_config(_hashing(library))
    verifier.use_elliptic_key_verifier(public_key=key)
    same = False
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it warns there, where documents belong
            verifier.verify(folder, folder / SIGNATURE)
        same = True
    except InvalidSignature:
        raise _other(folder, key) from None
    except OSError as error:
        raise BundleError(f"{folder} cannot be read: {error.strerror}", "copy the whole folder anew") from None
    except Exception as error:  # what reads the signature raises kinds of its own where that is damaged
        if str(error).startswith("Key mismatch"):
            raise _other(folder, key) from None
        if not str(error).startswith("Signature mismatch"):
            fact = f"the signature of {folder} is damaged: {type(error).__name__}"
            raise BundleError(fact, "deploy it with --sign KEY, or copy it anew") from None
    # A signature may say itself that it leaves files out; such a one does not do.
    if (different := _different(folder)) or not same:
        names = ", ".join(map(repr, different[:NAMED])) + (" and more" if len(different) > NAMED else "")
        raise BundleError(f"{folder} is not what was signed: see {names}", "copy it anew, or deploy it with --sign KEY")


def _other(folder: Path, key: Path) -> BundleError:
    fact = f"{folder} is signed by another key than {key}, or its signature was changed"
    return BundleError(fact, "deploy it with --sign and the private half of that key")


def _library() -> Any:
    try:
        import model_signing
    except ImportError as error:  # or something that it needs
        fact = "is not installed" if error.name == "model_signing" else f"cannot be imported: {error}"
        raise EdgeSdkError(f"model-signing {fact}", "pip install 'edgesdk[sign]'") from None
    return model_signing


def _hashing(library: Any) -> Any:
    """Every file counts but the signature itself, those of Git too."""
    return library.hashing.Config().set_ignored_paths(paths=[SIGNATURE], ignore_git_paths=False)


def _files(folder: Path) -> list[Path]:
    """The files that a signature of ``folder`` covers. Raises ``BundleError`` for what is no bundle, and for links."""
    if not (folder / "manifest.json").is_file():
        raise BundleError(f"{folder} is no bundle", "give the folder of a bundle")
    paths = sorted(folder.rglob("*"))
    for path in paths:
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise BundleError(f"{path} is a link or no file", "put the file itself there")
    return [path for path in paths if path.is_file() and path != folder / SIGNATURE]


def _different(folder: Path) -> list[str]:
    """Names of the files that are not as ``folder``'s signature has them, of both those that lack."""
    envelope = json.loads((folder / SIGNATURE).read_text("utf-8"))["dsseEnvelope"]
    resources = json.loads(base64.b64decode(envelope["payload"]))["predicate"]["resources"]
    signed = {entry["name"]: entry["digest"] for entry in resources}
    there = {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in _files(folder)}
    return sorted(name for name in {*signed, *there} if signed.get(name) != there.get(name))


def _check_key(key: Path, private: bool) -> None:
    """Raise ``UsageError`` unless ``key`` is a file that model-signing takes, without a passphrase."""
    from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

    with _said_of(key, private):
        content = key.read_bytes()
        loaded = load_pem_private_key(content, None) if private else load_pem_public_key(content)
    curve = getattr(getattr(loaded, "curve", None), "name", "")
    if curve not in CURVES:
        fact = (
            f"the key {key} is {f'on the curve {curve}' if curve else 'of another kind'}, not on {' or '.join(CURVES)}"
        )
        raise UsageError(fact, NEW_KEY)


@contextlib.contextmanager
def _said_of(key: Path, private: bool) -> Iterator[None]:
    half, other = ("private", "public") if private else ("public", "private")
    try:
        yield
    except OSError as error:
        raise UsageError(f"the key {key} cannot be read: {error.strerror}", NEW_KEY) from None
    except TypeError:
        fact = f"the key {key} has a passphrase, which edgesdk does not ask for"
        raise UsageError(fact, "take it off: openssl ec -in KEY -out PLAIN_KEY") from None
    except Exception:  # no PEM, a kind that nobody knows: each has its own
        raise UsageError(f"{key} is no PEM file of a {half} key", f"give the {half} key, not the {other} one") from None
