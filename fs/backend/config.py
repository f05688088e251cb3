"""Backends as nydusd's configuration files describe them.

    {"device": {"backend": {"type": KIND, "config": {…}}}}      nydusd, version 1
    {"version": 2, "backend": {"type": KIND, KIND: {…}}}        nydusd, version 2
    {…}                                                         the innermost map; KIND is given

    localfs     dir, alt_dirs, or blob_file
    registry    host, repo, scheme, auth (base64 of USER:PASSWORD), registry_token
    s3          endpoint, region, bucket_name, object_prefix, scheme, access_key_id,
                access_key_secret, session_token
    http        url; nydusd's name and fields: http-proxy, addr, path

Those that use a network also have: skip_verify, ca_cert_files, timeout, connect_timeout
(seconds), proxy.url. Fields that say how nydusd does its work are left out of account.
The file may hold keys: nothing of its values is shown.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fs.format.errors import UsageError, local_errors

KINDS = ("localfs", "registry", "s3", "http", "http-proxy")
_MAX_FILE = 1 << 20


class BackendConfig(NamedTuple):
    """`where` names the file in messages."""

    kind: str
    fields: Mapping[str, Any]
    where: str

    def text(self, key: str, default: str | None = None) -> str:
        """A text; UsageError if it is none, or missing without a default."""
        value = self.fields.get(key) or default
        if not isinstance(value, str):
            raise self.wrong(f"{key} is missing or no text")
        return value

    def texts(self, key: str) -> list[str]:
        value = self.fields.get(key) or []
        if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
            raise self.wrong(f"{key} is no list of texts")
        return value

    def flag(self, key: str) -> bool:
        value = self.fields.get(key, False)
        if not isinstance(value, bool):
            raise self.wrong(f"{key} is neither true nor false")
        return value

    def seconds(self, key: str, default: float) -> float:
        value = self.fields.get(key) or default
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 3600:
            raise self.wrong(f"{key} is no number of seconds")
        return float(value)

    def wrong(self, what: str) -> UsageError:
        return UsageError(f"{self.where}: {self.kind} backend: {what}")


def load_config(path: str, kind: str | None = None) -> BackendConfig:
    """The backend that a file, or JSON in its place, describes.

    `kind` must be what it says itself, if it does.
    """
    if path.lstrip().startswith("{"):
        return parse_config(path.encode(), "the backend's configuration", kind)
    with local_errors(path), Path(path).open("rb") as file:
        raw = file.read(_MAX_FILE + 1)
    return parse_config(raw, path, kind)


def parse_config(raw: bytes, path: str, kind: str | None = None) -> BackendConfig:
    """The same for what the file at `path` holds, or for what another place, so named, does."""
    try:
        document = json.loads(raw) if len(raw) <= _MAX_FILE else None
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise UsageError(f"{path}: not a JSON object of at most {_MAX_FILE} bytes")
    said, fields = _backend(document, path)
    if said and kind and said != kind:
        raise UsageError(f"{path}: describes a backend of type {said}, not {kind}")
    chosen = said or kind
    if not chosen:
        raise UsageError(f"{path}: does not say which type of backend it describes")
    if chosen not in KINDS:
        raise UsageError(f"{path}: a backend is one of {', '.join(sorted(KINDS))}")
    if not isinstance(fields, dict):
        raise UsageError(f"{path}: lacks the configuration of its backend")
    return BackendConfig(chosen, fields, path)


def _backend(document: dict[str, Any], path: str) -> tuple[str | None, object]:
    outer = document.get("device", document)
    if not isinstance(outer, dict):
        raise UsageError(f"{path}: device is no map")
    if "backend" not in outer:
        return None, document
    backend = outer["backend"]
    if not isinstance(backend, dict) or not isinstance(backend.get("type"), str):
        raise UsageError(f"{path}: its backend has no type")
    kind: str = backend["type"]
    return kind, backend.get("config" if "device" in document else kind)
