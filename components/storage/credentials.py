"""Endpoint and keys of an object store, as ``MEDMARK_S3_...`` in the environment gives them. They appear in no message."""

from __future__ import annotations

import json
import os
from pathlib import Path
from urllib.parse import urlsplit

from medmark.components.base.addresses import is_local
from medmark.components.base.errors import MedmarkError


def given_credentials(identity: str = "") -> dict[str, str]:
    """``endpoint``, ``access_key``, ``secret_key`` and ``region``; empty where nothing is given, but for the endpoint.

    Args:
        identity: see :meth:`medmark.components.storage.store.Store.from_environment`.

    Raises:
        MedmarkError: no endpoint is given, the file is unreadable, or others may read it.
    """
    environment, prefix = os.environ, f"MEDMARK_S3_{identity.upper()}_" if identity else "MEDMARK_S3_"
    path = environment.get(f"{prefix}CREDENTIALS")
    given = _read_credentials(Path(path), f"{prefix}CREDENTIALS") if path else {}
    for name in ("endpoint", "access_key", "secret_key", "region"):
        given[name] = environment.get(f"{prefix}{name.upper()}") or given.get(name, "")
    if not given["endpoint"]:
        what = f"no object store for {identity} is set" if identity else "no object store is set"
        raise MedmarkError(f"{what}; set {prefix}ENDPOINT or {prefix}CREDENTIALS")
    return given


def checked_endpoint(endpoint: str, insecure: bool) -> tuple[str, bool]:
    """Host with port, and whether to use TLS.

    Args:
        endpoint: ``https://host[:port]``; https when no scheme is given.
        insecure: allow ``http://`` to other machines.

    Raises:
        MedmarkError: it is of another form, or http to another machine.
    """
    try:
        parts = urlsplit(endpoint if "://" in endpoint else f"https://{endpoint}")
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or parts.scheme not in ("http", "https") or parts.username or parts.password:
        raise MedmarkError("not an endpoint of an object store; set MEDMARK_S3_ENDPOINT to https://host[:port]")
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise MedmarkError(f"endpoint with a path: {parts.netloc}; give only https://host[:port]")
    if parts.scheme == "http" and not insecure and not is_local(host):
        raise MedmarkError(
            f"http to another machine: {host}; use https, or set MEDMARK_S3_INSECURE=1 if the net is trusted"
        )
    return parts.netloc, parts.scheme == "https"


def _read_credentials(path: Path, variable: str) -> dict[str, str]:
    try:
        if path.stat().st_mode & 0o077:
            raise MedmarkError(
                f"others may read the credentials: {path}; run chmod 600 {path} and change the secret key"
            )
        given = json.loads(path.read_bytes())
        if not isinstance(given, dict) or not all(isinstance(value, str) for value in given.values()):
            raise ValueError("no object of texts")
        return given
    except OSError as error:
        raise MedmarkError(f"cannot read: {path} ({error.strerror}); correct {variable}") from error
    except (ValueError, RecursionError):  # the reason may quote the file
        raise MedmarkError(
            f"no credentials file: {path}; give JSON with endpoint, access_key, secret_key and region"
        ) from None
