"""Image references, read as Docker reads them.

`alpine` is `docker.io/library/alpine:latest`; the part before the first slash
is a host only if it has a dot or a colon, is `localhost`, or has upper-case
letters. A parsed reference always has a tag or a digest, and contains only
characters that are safe in a URL path.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from fs.format.errors import UsageError
from fs.registry.digest import is_digest

DEFAULT_DOMAIN = "docker.io"
DEFAULT_TAG = "latest"
DEFAULT_HOST = "registry-1.docker.io"
_OFFICIAL = "library/"

_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_NAME = rf"{_LABEL}(?:\.{_LABEL})*"
_DOMAIN = re.compile(rf"(?:{_NAME}|\[(?P<ipv6>[a-fA-F0-9:]+)\])(?::(?P<port>[0-9]{{1,5}}))?")
_PATH_PART = re.compile(r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_IDENTIFIER = re.compile(r"[a-f0-9]{64}")
_MAX_REPOSITORY = 255


@dataclass(frozen=True, slots=True)
class Reference:
    """A name in a registry. `str()` is the canonical text, `familiar` the short one."""

    domain: str
    repository: str
    tag: str | None
    digest: str | None

    @property
    def host(self) -> str:
        """Where the registry's API is: "HOST[:PORT]"."""
        return DEFAULT_HOST if self.domain == DEFAULT_DOMAIN else self.domain

    @property
    def name(self) -> str:
        """Domain and repository, without tag and digest."""
        return f"{self.domain}/{self.repository}"

    @property
    def target(self) -> str:
        """What a manifest request asks for: the digest, else the tag."""
        return self.digest or self.tag or DEFAULT_TAG

    @property
    def familiar(self) -> str:
        """The text without what Docker fills in by itself."""
        if self.domain != DEFAULT_DOMAIN:
            return str(self)
        short = self.repository.removeprefix(_OFFICIAL)
        return (self.repository if "/" in short else short) + self._suffix()

    def __str__(self) -> str:
        return self.name + self._suffix()

    def _suffix(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{tag}@{self.digest}" if self.digest else tag


def parse_reference(text: str) -> Reference:
    """The reference that `text` names; UsageError says what is wrong with it."""
    if not text:
        raise UsageError("empty image reference")
    if "://" in text:
        raise UsageError(f"{_shown(text)}: an image reference has no URL scheme")
    if _IDENTIFIER.fullmatch(text):
        raise UsageError(f"{_shown(text)}: a bare image ID is not an image reference")
    rest, digest = _split_digest(text)
    rest, tag = _split_tag(rest, text)
    domain, repository = _split_domain(rest, text)
    _check_repository(repository, text)
    if tag is None and digest is None:
        tag = DEFAULT_TAG
    return Reference(domain, repository, tag, digest)


def canonical(name: str) -> str:
    """The canonical text of a reference; a name that is none stays as it is."""
    try:
        return str(parse_reference(name))
    except UsageError:
        return name


def _shown(text: str) -> str:
    """`text` for a message: quoted, one line, without a login in front of a host."""
    scheme, mark, rest = text[:300].rpartition("://")
    head, slash, tail = rest.partition("/")
    login, at, host = head.rpartition("@")
    if at and (mark or ":" in login) and slash:
        head = host
    return repr(scheme + mark + head + slash + tail)


def _split_digest(text: str) -> tuple[str, str | None]:
    rest, mark, digest = text.partition("@")
    if not mark:
        return text, None
    if not is_digest(digest):
        raise UsageError(f"{_shown(text)}: what follows '@' is no sha256 or sha512 digest")
    return rest, digest


def _split_tag(rest: str, text: str) -> tuple[str, str | None]:
    slash, colon = rest.rfind("/"), rest.rfind(":")
    if colon <= slash:
        return rest, None
    tag = rest[colon + 1 :]
    if not _TAG.fullmatch(tag):
        raise UsageError(
            f"{_shown(text)}: a tag has 1 to 128 letters, digits, '_', '.', '-', "
            "and does not start with '.' or '-'"
        )
    return rest[:colon], tag


def _split_domain(rest: str, text: str) -> tuple[str, str]:
    head, slash, tail = rest.partition("/")
    looks_like_host = any(c in head for c in ".:") or head == "localhost" or head != head.lower()
    if not slash or not looks_like_host:
        head, tail = DEFAULT_DOMAIN, rest
    if not _is_host(head):
        raise UsageError(f"{_shown(text)}: the registry is not a valid HOST[:PORT]")
    if head == "index.docker.io":
        head = DEFAULT_DOMAIN
    if head == DEFAULT_DOMAIN and "/" not in tail:
        tail = _OFFICIAL + tail
    return head, tail


def _is_host(domain: str) -> bool:
    """Whether this is HOST[:PORT] that can stand in a URL."""
    match = _DOMAIN.fullmatch(domain)
    if not match or not 0 < int(match["port"] or 443) < 1 << 16:
        return False
    try:
        return not match["ipv6"] or bool(ipaddress.IPv6Address(match["ipv6"]))
    except ValueError:
        return False


def _check_repository(repository: str, text: str) -> None:
    if len(repository) > _MAX_REPOSITORY:
        raise UsageError(f"{_shown(text)}: repository name longer than {_MAX_REPOSITORY}")
    if all(_PATH_PART.fullmatch(part) for part in repository.split("/")):
        return
    if repository != repository.lower():
        raise UsageError(f"{_shown(text)}: a repository name is in lower case")
    raise UsageError(
        f"{_shown(text)}: the parts of a repository name are lower-case letters and digits, "
        "separated by '.', '_', '__' or '-'"
    )
