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

import base64
import binascii
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fs.backend.blobs import BlobBackend
from fs.format.errors import UsageError, local_errors
from fs.registry.store import StoreOptions

if TYPE_CHECKING:
    from fs.registry.hosts import Trust

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
    if chosen not in _OPENERS:
        raise UsageError(f"{path}: a backend is one of {', '.join(sorted(_OPENERS))}")
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


def open_configured(config: BackendConfig, options: StoreOptions) -> BlobBackend:
    """The backend that `config` describes, for what it leaves open with `options`."""
    return _OPENERS[config.kind](config, options)


def _directory(config: BackendConfig, options: StoreOptions) -> BlobBackend:
    from fs.backend.directory import DirectoryBackend, FileBackend

    if file := config.text("blob_file", ""):
        return FileBackend(file)
    return DirectoryBackend(config.text("dir"), *config.texts("alt_dirs"))


def _http(config: BackendConfig, options: StoreOptions) -> BlobBackend:
    from fs.backend.http import HttpBackend
    from fs.registry.hosts import trust_of

    own = _network(config, options)
    url = config.text("url", "") or config.text("addr") + config.text("path", "")
    return HttpBackend(url, own, trust=trust_of(own, _authorities(config)))


def _s3(config: BackendConfig, options: StoreOptions) -> BlobBackend:
    from fs.backend.s3 import bucket_of, open_bucket

    own, trust = network_of(config, options)
    return open_bucket(bucket_of(config), own, trust)


def network_of(config: BackendConfig, options: StoreOptions) -> tuple[StoreOptions, Trust]:
    """How the network of a backend is reached: what `config` says, else `options`."""
    from fs.registry.hosts import trust_of

    own = _network(config, options)
    return own, trust_of(own, _authorities(config))


def _registry(config: BackendConfig, options: StoreOptions) -> BlobBackend:
    from fs.backend.image import ImageBackend
    from fs.registry.hosts import Host, trust_of
    from fs.registry.reference import parse_reference
    from fs.registry.remote import RegistryReader

    if config.text("blob_redirected_host", "") or config.text("blob_url_scheme", ""):
        raise config.wrong("blob_redirected_host and blob_url_scheme are not supported")
    scheme = config.text("scheme", "https")
    if scheme not in ("http", "https"):
        raise config.wrong("scheme is http or https")
    own = _network(config, options)
    reference = parse_reference(f"{config.text('host')}/{config.text('repo')}")
    host = Host(
        reference.domain,
        f"{scheme}://{reference.host}",
        trust=trust_of(own, _authorities(config)),
        login=_login(config),
    )
    return ImageBackend(RegistryReader(reference, own, (host,)))


def _login(config: BackendConfig) -> Any:  # noqa: ANN401
    """Credentials, if the file has any."""
    from fs.registry.credentials import Credentials

    token, auth = config.text("registry_token", ""), config.text("auth", "")
    if token:
        return Credentials(registry_token=token)
    if not auth:
        return None
    try:
        name, colon, password = base64.b64decode(auth, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        colon = ""
    if not colon:
        raise config.wrong("auth is not the base64 of USER:PASSWORD")
    return Credentials(name, password)


def _network(config: BackendConfig, options: StoreOptions) -> StoreOptions:
    proxy = config.fields.get("proxy") or {}
    url = proxy.get("url") if isinstance(proxy, dict) else None
    environment = dict(options.environment)
    if url:
        environment |= {"http_proxy": str(url), "https_proxy": str(url), "no_proxy": ""}
        environment.pop("NO_PROXY", None)
    return replace(
        options,
        insecure=options.insecure or config.flag("skip_verify"),
        environment=environment,
        read_timeout=config.seconds("timeout", options.read_timeout),
        connect_timeout=config.seconds("connect_timeout", options.connect_timeout),
    )


def _authorities(config: BackendConfig) -> tuple[Path, ...]:
    return tuple(Path(file) for file in config.texts("ca_cert_files"))


_OPENERS: dict[str, Callable[[BackendConfig, StoreOptions], BlobBackend]] = {
    "localfs": _directory,
    "registry": _registry,
    "s3": _s3,
    "http": _http,
    "http-proxy": _http,
}
KINDS = tuple(_OPENERS)
