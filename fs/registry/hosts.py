"""Where a registry's content may be asked for: its mirrors and itself, by containerd's files.

    HOSTS_DIR/HOST_PORT_/     or HOST:PORT/, or HOST/; the first that is there
    HOSTS_DIR/_default/       for registries without a directory of their own
        hosts.toml            mirrors in order, then `server`
        *.crt                 without hosts.toml: authorities, as docker has them
        NAME.cert, NAME.key   without hosts.toml: client certificates

Nothing is read before a registry is spoken to. The files are the administrator's:
what is wrong with them is a UsageError that names the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from fs.format.errors import UsageError, local_errors
from fs.registry.reference import DEFAULT_DOMAIN, DEFAULT_HOST, Reference

if TYPE_CHECKING:
    from fs.registry.credentials import Credentials
    from fs.registry.places import StoreOptions

SYSTEM_DIRS = (Path("/etc/containerd/certs.d"), Path("/etc/docker/certs.d"))
"""Where command lines look that are not told where."""

MIRROR_CONNECT = 4.0
"""Seconds to connect to a mirror at most, where there is another host to ask."""

_MAX_FILE = 1 << 20
_DURATION = re.compile(r"(?:(\d{1,4})m)?(?:(\d{1,5}(?:\.\d+)?)s)?(?:(\d{1,6})ms)?")
_CAPABILITIES = frozenset({"pull", "resolve", "push"})
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile(r"[\x20-\x7e]*")
_PRINTABLE = re.compile(r"[\x21-\x7e]+")
_PATH = re.compile(r"(?:/[A-Za-z0-9._~%:@!$&'()*+,;=-]+)*/?")


class Client(NamedTuple):
    """A client certificate; `key` None: in the same file."""

    certificate: Path
    key: Path | None = None


class Trust(NamedTuple):
    """How TLS is spoken: authorities besides the system's, and who we are."""

    checked: bool = True
    ca_files: tuple[Path, ...] = ()
    clients: tuple[Client, ...] = ()


_USUAL = Trust()


def trust_of(
    options: StoreOptions, ca_files: tuple[Path, ...] = (), *, more: Trust = _USUAL
) -> Trust:
    """What the options say, more authorities, and what is set for one host."""
    given = (options.ca_file,) if options.ca_file else ()
    return Trust(
        more.checked and not options.insecure, (*more.ca_files, *ca_files, *given), more.clients
    )


@dataclass(frozen=True)
class Host:
    """One server. `name` is HOST[:PORT], which logins are for.

    `url` is SCHEME://HOST[:PORT]; None where https or http has to be found out.
    `connect_timeout` is in seconds; None: as for any server.
    `path` is before "/REPOSITORY/…". A mirror is told by `namespace` whose content is meant.
    """

    name: str
    url: str | None = None
    path: str = "/v2"
    capabilities: frozenset[str] = _CAPABILITIES
    trust: Trust = _USUAL
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    namespace: str | None = None
    connect_timeout: float | None = None
    login: Credentials | None = field(default=None, repr=False)


def hosts_dirs(chosen: str | None) -> tuple[Path, ...]:
    """Where to look: in the directory that the user names, else in the system's."""
    return (Path(chosen),) if chosen else SYSTEM_DIRS


def find_hosts(reference: Reference, options: StoreOptions) -> tuple[Host, ...]:
    """The hosts for a reference in the order in which they are asked, the registry's own last."""
    hosts = _configured(reference, options.hosts_dirs) or (Host(reference.domain),)
    patience = min(MIRROR_CONNECT, options.connect_timeout)
    return tuple(
        replace(
            host,
            trust=trust_of(options, more=host.trust),
            connect_timeout=host.connect_timeout or (None if host is hosts[-1] else patience),
        )
        for host in hosts
    )


def _configured(reference: Reference, roots: tuple[Path, ...]) -> tuple[Host, ...]:
    names = [*_names(reference.domain), "_default"]
    for directory in (root / name for name in names for root in roots):
        if not directory.is_dir():
            continue
        with local_errors(str(directory)):
            file = directory / "hosts.toml"
            if file.exists():
                return tuple(_HostsFile(file, reference).hosts())
            return (Host(reference.domain, trust=_docker_trust(directory)),)
    return ()


def _names(domain: str) -> Iterator[str]:
    host, colon, port = domain.rpartition(":")
    if colon and port.isdigit():
        yield f"{host}_{port}_"
    yield domain


def _docker_trust(directory: Path) -> Trust:
    authorities = tuple(sorted(directory.glob("*.crt")))
    clients = []
    for certificate in sorted(directory.glob("*.cert")):
        key = certificate.with_suffix(".key")
        if not key.exists():
            raise UsageError(f"{certificate}: its key {key.name} is missing")
        clients.append(Client(certificate, key))
    return Trust(True, authorities, tuple(clients))


class _HostsFile:
    """One hosts.toml, read for one reference."""

    def __init__(self, path: Path, reference: Reference) -> None:
        self._path = path
        self._reference = reference
        self._document = self._load()

    def hosts(self) -> Iterator[Host]:
        tables = self._typed(self._document, "host", dict, {})
        for text, table in tables.items():
            if not isinstance(table, dict):
                raise self._wrong(f"host {text!r} is no table")
            yield self._host(text, table)
        server = self._typed(self._document, "server", str, "")
        if server:
            yield self._host(server, self._document)
        else:
            own = self._host(f"https://{self._reference.host}", self._document)
            yield replace(own, name=self._reference.domain, url=None, path="/v2")

    def _load(self) -> dict[str, Any]:
        import tomllib

        with self._path.open("rb") as file:
            raw = file.read(_MAX_FILE + 1)
        if len(raw) > _MAX_FILE:
            raise self._wrong(f"larger than {_MAX_FILE} bytes")
        try:
            return tomllib.loads(raw.decode())
        except ValueError as error:
            raise self._wrong(str(error)) from None

    def _host(self, text: str, table: Mapping[str, Any]) -> Host:
        url, path = self._place(text)
        if not (self._typed(table, "override_path", bool, False) or path.endswith("/v2")):
            path += "/v2"
        netloc = urlsplit(url).netloc
        own = netloc == self._reference.host
        return Host(
            name=self._reference.domain if own else netloc,
            url=url,
            path=path,
            capabilities=self._capabilities(table),
            trust=Trust(
                not self._typed(table, "skip_verify", bool, False),
                tuple(self._file(name) for name in self._texts(table, "ca")),
                tuple(self._clients(table)),
            ),
            headers=tuple(self._headers(table)),
            namespace=None if own else self._reference.domain,
            connect_timeout=self._seconds(table, "dial_timeout"),
        )

    def _place(self, text: str) -> tuple[str, str]:
        """SCHEME://HOST[:PORT] and path of a URL; https where it has no scheme."""
        if not _PRINTABLE.fullmatch(text):
            raise self._wrong(f"{text!r} is no http or https URL")
        parts = urlsplit(text if "://" in text else f"https://{text}")
        try:
            port = parts.port
        except ValueError:
            raise self._wrong(f"host {parts.hostname!r} has no valid port") from None
        if parts.username is not None or parts.password is not None:
            raise self._wrong(f"host {parts.hostname!r}: logins belong into the auth file")
        host = parts.hostname or ""
        if parts.scheme not in ("http", "https") or not re.fullmatch(r"[\w.:-]+", host, re.A):
            raise self._wrong(f"{text!r} is no http or https URL")
        if parts.query or parts.fragment or not _PATH.fullmatch(parts.path):
            raise self._wrong(f"{text!r} is more than scheme, host and path")
        if host in (DEFAULT_DOMAIN, f"index.{DEFAULT_DOMAIN}"):
            host = DEFAULT_HOST
        netloc = f"[{host}]" if ":" in host else host
        return f"{parts.scheme}://{netloc}{f':{port}' if port else ''}", parts.path.rstrip("/")

    def _capabilities(self, table: Mapping[str, Any]) -> frozenset[str]:
        if "capabilities" not in table:
            return _CAPABILITIES
        return frozenset(self._texts(table, "capabilities")) & _CAPABILITIES

    def _clients(self, table: Mapping[str, Any]) -> Iterator[Client]:
        """`client`: a file, a list of files, or a list of pairs of certificate and key."""
        value = table.get("client", [])
        for item in value if isinstance(value, list) else [value]:
            match item:
                case str():
                    yield Client(self._file(item))
                case [str() as certificate]:
                    yield Client(self._file(certificate))
                case [str() as certificate, str() as key]:
                    yield Client(self._file(certificate), self._file(key) if key else None)
                case _:
                    raise self._wrong("client is no file, nor pairs of files")

    def _headers(self, table: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        header = self._typed(table, "header", dict, {})
        for name in header:
            values = self._texts(header, name)
            if not _HEADER_NAME.fullmatch(name) or not all(map(_HEADER_VALUE.fullmatch, values)):
                raise self._wrong(f"header {name!r} cannot be sent")
            yield name, ", ".join(values)

    def _seconds(self, table: Mapping[str, Any], key: str) -> float | None:
        """A duration as Go writes it, "1m30s" or "200ms"; None if there is none."""
        match = _DURATION.fullmatch(self._typed(table, key, str, ""))
        if not match:
            raise self._wrong(f"{key} is no duration like 3s or 200ms")
        minutes, seconds, milliseconds = (float(part or 0) for part in match.groups())
        return 60 * minutes + seconds + milliseconds / 1000 or None

    def _file(self, name: str) -> Path:
        return self._path.parent / name

    def _texts(self, table: Mapping[str, Any], key: str) -> list[str]:
        value = table.get(key, [])
        texts = [value] if isinstance(value, str) else value
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise self._wrong(f"{key} is no text, nor a list of texts")
        return texts

    def _typed(self, table: Mapping[str, Any], key: str, kind: type, default: Any) -> Any:  # noqa: ANN401
        value = table.get(key, default)
        if not isinstance(value, kind):
            raise self._wrong(f"{key} is no {kind.__name__}")
        return value

    def _wrong(self, what: str) -> UsageError:
        return UsageError(f"{self._path}: {what}")
