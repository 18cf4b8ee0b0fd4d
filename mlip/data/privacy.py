"""Identifiers leave a reader only as salted hashes."""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path

from mlip.errors import UserError


def read_salt(path: Path) -> bytes:
    """The salt of this working folder: ``MLIP_SALT`` of the environment, else the file, created once.

    Whoever has the salt can link a hash to a known raw identifier: it stays in ``work/`` and is readable by its owner only.
    """
    if given := os.environ.get("MLIP_SALT"):
        return given.encode()
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))
        try:
            os.link(draft, path)  # fails where another process was first: then its salt is the salt
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    salt = path.read_bytes().strip()
    if not salt:
        raise UserError("holds no salt", where=path, fix="delete it together with the stores built beside it")
    return salt


def hash_id(kind: str, raw: str, salt: bytes) -> str:
    """16 hex characters: sha256 of salt, kind (``<reader>/image`` and so on) and the raw identifier."""
    return hashlib.sha256(salt + b"\x1f" + kind.encode() + b"\x1f" + raw.encode()).hexdigest()[:16]
