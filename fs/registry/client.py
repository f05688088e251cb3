"""The distribution protocol, for one repository at one host.

Every call answers with what was asked for or raises a Failure that says what and
where. Authorization is sent to the registry's own origin only; redirects are
followed by hand. Thread-safe.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import urlencode

from fs.format.errors import (
    AccessError,
    Failure,
    FormatError,
    NotFoundError,
    UnreachableError,
    VerifyError,
)
from fs.registry.address import absolute, check_redirect, is_loopback, origin, shown
from fs.registry.authorizer import Authorizer, Scopes
from fs.registry.credentials import find_credentials
from fs.registry.digest import check_bytes, check_digest, is_digest
from fs.registry.hosts import Host
from fs.registry.manifest import MAX_MANIFEST, parse_json_object
from fs.registry.mediatypes import INDEX_TYPES, MANIFEST_TYPES, OCI_INDEX
from fs.registry.places import StoreOptions
from fs.registry.reference import Reference
from fs.registry.retry import TemporaryFault, is_temporary_status
from fs.registry.targets import Targets
from fs.registry.transport import Answer, NotTlsError, Transport

_REDIRECTS = (301, 302, 303, 307, 308)
_MAX_REDIRECTS = 5
_MAX_ERROR = 16 << 10
_ERROR_CODE = re.compile(r"[A-Z][A-Z_]{2,40}")
_ACCEPT = ", ".join((*MANIFEST_TYPES, *INDEX_TYPES))


@dataclass(frozen=True)
class Call:
    """One request to the registry; `what` names its object in messages.

    `body` is called for each attempt; it has `length` bytes.
    """

    method: str
    url: str
    what: str
    scopes: Scopes
    good: tuple[int, ...]
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Callable[[], Iterator[bytes] | bytes] | None = None


class RegistryClient:
    """`host` is a mirror of the registry of `reference`, or that one itself."""

    def __init__(self, reference: Reference, options: StoreOptions, host: Host) -> None:
        self.reference = reference
        self.host = host
        self.retry = options.retry
        if host.connect_timeout is not None:
            options = replace(options, connect_timeout=host.connect_timeout)
        self._options = options
        self._transport = Transport(
            options, host.trust, origin(host.url or f"https://{reference.host}")
        )
        self._lock = threading.Lock()
        self._known_base = host.url
        self._targets = Targets()
        self._authorizer = Authorizer(
            self._transport,
            lambda: (
                host.login
                or find_credentials(
                    host.name, reference.repository, options.auth_file, options.environment
                )
            ),
            plain_http=options.plain_http,
        )
        self.pull_scopes: Scopes = (f"repository:{reference.repository}:pull",)
        self.push_scopes: Scopes = (f"repository:{reference.repository}:pull,push",)

    def manifest(self, target: str, spare: int = 0) -> tuple[bytes, str]:
        """One attempt at bytes and Content-Type of the manifest with a tag or digest.

        The bytes have the digest that is asked for, and the one that the server says. Meanwhile
        `spare` connections are made, for what will be asked at once when it is here.
        """
        url = f"{self._repository_url()}/manifests/{target}{self._namespace()}"
        what = f"manifest {target}"
        call = Call("GET", url, what, self.pull_scopes, (200,), {"Accept": _ACCEPT})
        with self._transport.with_spare(url, spare):
            answer = self.perform(call)
        raw = answer.read_all(MAX_MANIFEST, what)
        for promised in (target, answer.headers.get("docker-content-digest", "")):
            if is_digest(promised):
                check_bytes(raw, promised, len(raw), self.reference.name)
        return raw, answer.headers.get("content-type", "")

    def referrers(self, digest: str) -> bytes:
        """One attempt at the registry's own list of what refers to a manifest; not verified.

        NotFoundError if the registry keeps none, as many do not.
        """
        url = f"{self._repository_url()}/referrers/{check_digest(digest, 'subject')}"
        what = f"referrers of {digest}"
        accept = {"Accept": OCI_INDEX}
        call = Call("GET", url + self._namespace(), what, self.pull_scopes, (200,), accept)
        return self.perform(call).read_all(MAX_MANIFEST, what)

    def put_manifest(self, target: str, raw: bytes, media_type: str) -> str:
        """Store a manifest under a tag or digest; VerifyError if the registry stored another.

        Returns the digest of the subject that the registry has noted, "" if none.
        """

        def attempt() -> str:
            url = f"{self._repository_url()}/manifests/{target}"
            headers = {"Content-Type": media_type}
            call = Call(
                "PUT", url, f"manifest {target}", self.push_scopes, (201,), headers, lambda: raw
            )
            answer = self.perform(call)
            answer.close()
            stored = answer.headers.get("docker-content-digest", "")
            if is_digest(stored):
                check_bytes(raw, stored, len(raw), self.reference.name)
            return answer.headers.get("oci-subject", "")

        return self.retry.run(attempt)

    def has_blob(self, digest: str, size: int | None = None) -> bool:
        """Whether a blob is there, asked with the right to push that follows."""

        def attempt() -> bool:
            call = Call("HEAD", self._blob_url(digest), f"blob {digest}", self.push_scopes, (200,))
            try:
                answer = self.perform(call)
            except NotFoundError:
                return False
            answer.close()
            return size is None or answer.length in (None, size)

        return self.retry.run(attempt)

    def blob(self, digest: str, first: int = 0, last: int | None = None) -> Answer:
        """One attempt at a blob's bytes `first` to `last` (inclusive; None: to the end).

        The answer's body starts at `first`, whether the server knows ranges or not;
        it may be longer, or end earlier, than asked.
        """
        ranged = first > 0 or last is not None
        headers = {"Range": f"bytes={first}-{'' if last is None else last}"} if ranged else {}
        answer = self._from_target(digest, headers) or self._from_registry(digest, headers)
        if not ranged:
            return answer
        try:
            _align(answer, digest, first, last)
        except BaseException:
            answer.close()
            raise
        return answer

    def perform(self, call: Call) -> Answer:
        """One attempt, authorized and redirected; an answer with one of the `good` statuses."""
        answer = self._follow(self._authorized(call), call)
        if answer.status not in call.good:
            raise self._failure(answer, call.what)
        return answer

    def start_upload(self, scopes: Scopes, query: Mapping[str, str]) -> str | None:
        """One attempt to begin an upload: where its bytes go; None if `query` made it needless."""
        joint = "?" if query else ""
        url = f"{self._repository_url()}/blobs/uploads/{joint}{urlencode(query)}"
        answer = self.perform(Call("POST", url, "upload", scopes, (201, 202)))
        answer.close()
        if answer.status == 201:
            return None
        target = absolute(answer.headers.get("location"), url, "location of the upload")
        check_redirect(url, target, plain_http=self._options.plain_http)
        return target

    def close(self) -> None:
        self._transport.close()

    def _repository_url(self) -> str:
        return f"{self._base()}{self.host.path}/{self.reference.repository}"

    def _namespace(self) -> str:
        """What tells a mirror of several registries which one is meant."""
        return f"?{urlencode({'ns': self.host.namespace})}" if self.host.namespace else ""

    def _blob_url(self, digest: str) -> str:
        return f"{self._repository_url()}/blobs/{check_digest(digest, 'blob')}"

    def _base(self) -> str:
        """SCHEME://HOST of the registry, found out on the first call."""
        with self._lock:
            if self._known_base is None:
                self._known_base = self._probe()
            return self._known_base

    def _probe(self) -> str:
        """https, unless the user or the place allows http and https does not answer."""
        host = self.reference.host  # a mirror has its scheme from the configuration
        secure, clear = f"https://{host}", f"http://{host}"
        if self._options.plain_http:
            return clear
        if not (self._options.insecure or is_loopback(origin(secure).host)):
            return secure
        # Only whether it is TLS; whether to trust it is seen when it matters.
        probe = Transport(replace(self._options, insecure=True))
        try:
            probe.send("GET", f"{secure}/v2/", {}).close()
        except NotTlsError:
            return clear
        except TemporaryFault:
            probe.send("GET", f"{clear}/v2/", {}).close()
            return clear
        finally:
            probe.close()
        return secure

    def _authorized(self, call: Call) -> Answer:
        """Send, and once again with a renewed authorization if this one is refused."""
        base, own = self._base(), self._is_own(call.url)
        header = self._authorizer.header(call.scopes, base) if own else None
        answer = self._send(call, header)
        if not own or answer.status not in (401, 403):
            return answer
        try:
            better = self._authorizer.renew(answer, header, call.scopes, base)
        except BaseException:
            answer.close()
            raise
        if better is None:
            return answer
        answer.close()
        return self._send(call, better)

    def _send(self, call: Call, authorization: str | None) -> Answer:
        headers = {"User-Agent": "nydus-fs", "Accept-Encoding": "identity", **call.headers}
        if self._is_own(call.url):
            headers |= self.host.headers
        if authorization:
            headers["Authorization"] = authorization
        body = call.body() if call.body else None
        return self._transport.send(call.method, call.url, headers, body)

    def _is_own(self, url: str) -> bool:
        """Whether `url` is at the host itself, which alone gets what is for it."""
        return origin(url) == origin(self._base())

    def _follow(self, answer: Answer, call: Call) -> Answer:
        """Follow redirects of a GET or HEAD; elsewhere without Authorization."""
        if call.method not in ("GET", "HEAD"):
            return answer
        for _ in range(_MAX_REDIRECTS):
            if answer.status not in _REDIRECTS:
                return answer
            answer.close()
            target = absolute(answer.headers.get("location"), answer.url, "redirect")
            check_redirect(answer.url, target, plain_http=self._options.plain_http)
            answer = self._authorized(
                Call(call.method, target, call.what, call.scopes, call.good, call.headers)
            )
        answer.close()
        raise UnreachableError(f"{self._where(call.what)}: too many redirects")

    def _from_registry(self, digest: str, headers: Mapping[str, str]) -> Answer:
        url, what = self._blob_url(digest) + self._namespace(), f"blob {digest}"
        answer = self.perform(Call("GET", url, what, self.pull_scopes, _good(headers), headers))
        if origin(answer.url) != origin(url):
            self._targets.keep(digest, answer.url)
        return answer

    def _from_target(self, digest: str, headers: Mapping[str, str]) -> Answer | None:
        """From where the registry sent us before; None once that does not work any more."""
        target = self._targets.find(digest)
        if target is None:
            return None
        call = Call("GET", target, f"blob {digest}", (), _good(headers), headers)
        try:
            answer = self._send(call, None)
        except TemporaryFault:
            self._targets.forget(digest, target)
            return None
        if answer.status in call.good:
            return answer
        answer.close()
        self._targets.forget(digest, target)
        return None

    def _failure(self, answer: Answer, what: str) -> Failure:
        """What a status means. Of the server's words only its error code is passed on."""
        code = _error_code(answer)
        where, why = self._where(what), "access denied"
        if self._is_own(answer.url):
            why = self._authorizer.explain()
        else:
            where += f", from {shown(answer.url)}"
        status = f"status {answer.status}{f' {code}' if code else ''}"
        if answer.status in (401, 403):
            return AccessError(f"{where}: {why} ({status})")
        if answer.status == 404:
            return NotFoundError(f"{where}: not found ({status})")
        if is_temporary_status(answer.status):
            return TemporaryFault(f"{where}: {status}", answer.retry_after())
        if answer.status < 400:
            return FormatError(f"unexpected answer ({status})", where)
        return AccessError(f"{where}: refused ({status})")

    def _where(self, what: str) -> str:
        return f"{self.reference.name}: {what}"


def _good(headers: Mapping[str, str]) -> tuple[int, ...]:
    """The statuses that answer a GET for a blob or, with a Range header, for a part of it."""
    return (200, 206, 416) if "Range" in headers else (200,)


def _error_code(answer: Answer) -> str:
    """The code in a registry's error document, "" if there is none."""
    try:
        document = parse_json_object(answer.read_all(_MAX_ERROR, "error"), "error", "")
        code = document["errors"][0]["code"]
    except (FormatError, TemporaryFault, LookupError, TypeError):
        return ""
    return code if isinstance(code, str) and _ERROR_CODE.fullmatch(code) else ""


def _align(answer: Answer, digest: str, first: int, last: int | None) -> None:
    """Bring the answer to a range request to byte `first`."""
    where = f"{shown(answer.url)}: blob {digest}"
    if answer.status == 416:
        raise VerifyError(f"{where} ends before byte {first + 1}")
    if answer.status == 200 and not _content_range(answer):  # it does not know ranges
        left = first
        while left and (piece := answer.read(min(left, 1 << 20))):
            left -= len(piece)
        if left:
            raise VerifyError(f"{where} ends before byte {first + 1}")
        return
    match = re.fullmatch(r"bytes (\d{1,19})-(\d{1,19})/(?:\d{1,19}|\*)", _content_range(answer))
    if not match or int(match[1]) != first or (last is not None and int(match[2]) > last):
        raise FormatError("answer is for another range than asked", where)


def _content_range(answer: Answer) -> str:
    return answer.headers.get("content-range", "").strip()
