"""The backends that configurations describe, opened. What each needs is loaded for it alone."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fs.backend.blobs import BlobBackend
from fs.backend.config import BackendConfig
from fs.registry.store import StoreOptions

if TYPE_CHECKING:
    from fs.registry.hosts import Trust


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
