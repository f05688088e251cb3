"""TLS contexts: whom we trust, and as whom we come."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterable
from pathlib import Path

import certifi

from fs.format.errors import UsageError
from fs.registry.hosts import Client, Trust


def client_context(trust: Trust, *, shown: bool) -> ssl.SSLContext:
    """A context as `trust` says; its client certificates are used only if `shown`.

    UsageError for a file that holds no certificate or key.
    """
    if trust.checked:
        context = ssl.create_default_context()
        if not _has_system_roots():
            context.load_verify_locations(certifi.where())
        _load_authorities(context, trust.ca_files)
    else:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    for client in trust.clients if shown else ():
        _load_client(context, client)
    return context


def _load_authorities(context: ssl.SSLContext, files: Iterable[Path]) -> None:
    for file in files:
        try:
            context.load_verify_locations(file)
        except (OSError, ssl.SSLError):
            raise UsageError(f"{file}: no certificates can be read from it") from None


def _load_client(context: ssl.SSLContext, client: Client) -> None:
    def no_password() -> str:
        raise UsageError(f"{client.key or client.certificate}: the key has a password")

    try:
        context.load_cert_chain(client.certificate, client.key, no_password)
    except (OSError, ssl.SSLError):
        raise UsageError(
            f"{client.certificate}: no client certificate with its key can be read from it"
        ) from None


def _has_system_roots() -> bool:
    paths = ssl.get_default_verify_paths()
    if paths.cafile:
        return True
    return bool(paths.capath) and any(Path(os.fspath(paths.capath)).iterdir())
