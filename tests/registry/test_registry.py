"""The registry client against Debian's docker-registry: open, with logins, with TLS."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from fs.format.errors import AccessError, Failure, NotFoundError, UnreachableError, VerifyError
from fs.registry.descriptor import describe
from fs.registry.mediatypes import (
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
    layer_compression,
)
from fs.registry.platform import parse_platform
from fs.registry.reference import parse_reference
from fs.registry.retry import RetryPolicy
from fs.registry.store import StoreOptions, open_reader, open_writer
from tests.parts.registry import Registry, htpasswd_auth, self_signed, start_registry
from tests.parts.token_server import TokenServer, start_token_server
from tests.registry.images import Sample, make_image, make_index, push_image

pytestmark = pytest.mark.registry
ONCE = RetryPolicy(attempts=1)


@pytest.fixture(scope="module")
def sample() -> Sample:
    return make_image(os.urandom(300_000), b"upper", Cmd=["x"])


def login_file(root: Path, host: str, user: str, password: str) -> Path:
    auth = base64.b64encode(f"{user}:{password}".encode()).decode()
    path = root / "auth.json"
    path.write_text(json.dumps({"auths": {host: {"auth": auth}}}))
    return path


def push(place: str, sample: Sample, options: StoreOptions | None = None) -> None:
    with closing(open_writer(place, options)) as writer:
        push_image(writer, sample)


def check(place: str, sample: Sample, options: StoreOptions | None = None) -> None:
    """Read an image every way there is."""
    with closing(open_reader(place, options)) as reader:
        image = reader.resolve()
        assert image.manifest.raw == sample.raw
        assert image.config.cmd == ["x"]
        for layer in image.manifest.layers:
            with reader.open_blob(layer) as stream:
                assert stream.read() == sample.blobs[layer.digest]
            assert reader.read_range(layer, 2, 5) == sample.blobs[layer.digest][2:7]


def test_round_trip(registry: Registry, sample: Sample) -> None:
    place = f"{registry.host}/round/trip:v1"
    push(place, sample)
    check(place, sample)
    check(f"docker://{registry.host}/round/trip@{sample.descriptor.digest}", sample)


def test_absent(registry: Registry, sample: Sample) -> None:
    push(f"{registry.host}/absent:v1", sample)
    with closing(open_reader(f"{registry.host}/absent:v2")) as reader:
        with pytest.raises(NotFoundError, match=r"absent: manifest v2: not found .*404 MANIFEST"):
            reader.resolve()
        gone = describe(b"gone", OCI_LAYER)
        with pytest.raises(NotFoundError, match=f"blob {gone.digest}"):
            reader.read_blob(gone, 100)
        with pytest.raises(NotFoundError):
            reader.read_range(gone, 0, 1)
        with pytest.raises(VerifyError, match="ends before"):
            reader.read_range(sample.layers[0], sample.layers[0].size, 1)


def test_existing_blobs_are_not_sent_again(registry: Registry, sample: Sample) -> None:
    place = f"{registry.host}/existing"
    push(f"{place}:v1", sample)
    before = len(registry.requests("/v2/existing/blobs/uploads"))
    push(f"{place}:v2", sample)
    assert len(registry.requests("/v2/existing/blobs/uploads")) == before > 0


def test_blobs_are_mounted_from_beside(registry: Registry, sample: Sample) -> None:
    push(f"{registry.host}/mount/source:v1", sample)
    source = parse_reference(f"{registry.host}/mount/source:v1")
    with closing(open_writer(f"{registry.host}/mount/target:v1")) as writer:
        for blob in (*sample.layers, sample.config):
            assert writer.mount_blob(blob, source)
        writer.push_manifest(sample.raw, OCI_MANIFEST, tag=True)
    check(f"{registry.host}/mount/target:v1", sample)
    assert not [r for r in registry.requests("/v2/mount/target/blobs/uploads") if "PUT" in str(r)]


def test_a_mount_that_cannot_be(registry: Registry, sample: Sample) -> None:
    push(f"{registry.host}/mount/source:v1", sample)
    with closing(open_writer(f"{registry.host}/mount/not:v1")) as writer:
        for name in (f"{registry.host}/mount/nowhere:v1", f"{registry.host}/mount/not:v1",
                     "registry.example.com/mount/source:v1"):  # fmt: skip
            assert not writer.mount_blob(sample.layers[0], parse_reference(name))
        assert not writer.has_blob(sample.layers[0])
        push_image(writer, sample)
    check(f"{registry.host}/mount/not:v1", sample)


def test_progress_and_bodies(registry: Registry, tmp_path: Path) -> None:
    """A path, bytes, a file and a pipe are all good bodies; progress adds up."""
    with closing(open_writer(f"{registry.host}/bodies:v1")) as writer:
        for make in ("path", "bytes", "file", "pipe", "empty"):
            data = b"" if make == "empty" else os.urandom(2_500_000)
            (tmp_path / make).write_bytes(data)
            descriptor, sent = describe(data, OCI_LAYER), list[int]()
            if make == "path":
                writer.push_blob(descriptor, tmp_path / make, sent.append)
            elif make == "pipe":
                writer.push_blob(descriptor, Pipe(data), sent.append)
            elif make == "file":
                with (tmp_path / make).open("rb") as file:
                    writer.push_blob(descriptor, file, sent.append)
            else:
                writer.push_blob(descriptor, data, sent.append)
            assert sum(sent) == len(data)
            assert writer.has_blob(descriptor)


class Pipe(io.BytesIO):
    def seekable(self) -> bool:
        return False


@pytest.mark.parametrize("change", [b"?", b"", b"x" * 5_000_000])
def test_a_wrong_body_is_not_stored(registry: Registry, change: bytes) -> None:
    data = os.urandom(2_000_000)
    descriptor = describe(data, OCI_LAYER)
    sent: list[int] = []
    with closing(open_writer(f"{registry.host}/wrong:v1")) as writer:
        with pytest.raises(VerifyError):
            writer.push_blob(descriptor, data[:-1] + change, sent.append)
        assert not writer.has_blob(descriptor)
        assert sum(sent) == 0


def test_incomplete_image_is_not_tagged(registry: Registry, sample: Sample) -> None:
    place = f"{registry.host}/incomplete:v1"
    with closing(open_writer(place)) as writer, pytest.raises(AccessError, match="BLOB_UNKNOWN"):
        writer.push_manifest(sample.raw, "", tag=True)
    with closing(open_reader(place)) as reader, pytest.raises(NotFoundError):
        reader.resolve()


def test_index_and_platforms(registry: Registry) -> None:
    place = f"{registry.host}/platforms:all"
    texts = ("linux/arm64", "linux/amd64", "linux/arm/v7")
    platforms = [parse_platform(text) for text in texts]
    samples = [make_image(b"%d" % i, platform=p) for i, p in enumerate(platforms)]
    raw = make_index(*zip(samples, platforms, strict=True))
    with closing(open_writer(place)) as writer:
        for one in samples:
            push_image(writer, one, tag=False)
        writer.push_manifest(raw, OCI_INDEX, tag=True)
    with closing(open_reader(place)) as reader:
        index = reader.index()
        assert index
        assert index.raw == raw
        for platform, one in zip(platforms, samples, strict=True):
            assert reader.resolve(platform).descriptor.digest == one.descriptor.digest
        with pytest.raises(NotFoundError, match="no image for linux/s390x"):
            reader.resolve(parse_platform("linux/s390x"))


def test_damaged_storage_is_noticed(registry: Registry) -> None:
    """The registry hands out what lies on its disk; we do not take it."""
    image = make_image(b"damaged", Cmd=["x"])
    place = f"{registry.host}/damaged:v1"
    push(place, image)
    digest = image.layers[0].digest.removeprefix("sha256:")
    stored = registry.storage / f"docker/registry/v2/blobs/sha256/{digest[:2]}/{digest}/data"
    stored.write_bytes(stored.read_bytes()[:-1] + b"?")
    with closing(open_reader(place)) as reader:
        reader.resolve()
        with pytest.raises(VerifyError, match="was promised"):
            reader.read_blob(image.layers[0], 1 << 20)
        stored.write_bytes(stored.read_bytes()[:-1])
        with pytest.raises(VerifyError, match="bytes there"):
            reader.read_blob(image.layers[0], 1 << 20)
    digest = image.descriptor.digest.removeprefix("sha256:")
    stored = registry.storage / f"docker/registry/v2/blobs/sha256/{digest[:2]}/{digest}/data"
    stored.write_bytes(stored.read_bytes() + b" ")
    with closing(open_reader(place)) as reader, pytest.raises(VerifyError, match="was promised"):
        reader.resolve()


def test_many_threads(registry: Registry, sample: Sample) -> None:
    place, layer = f"{registry.host}/threads:v1", sample.layers[0]
    push(place, sample)
    errors: list[BaseException] = []
    with closing(open_reader(place)) as reader:

        def read(start: int) -> None:
            try:
                for offset in range(start, 40_000, 400):
                    expected = sample.blobs[layer.digest][offset : offset + 1000]
                    assert reader.read_range(layer, offset, 1000) == expected
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=read, args=(i * 100,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert errors == []


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    root = tmp_path_factory.mktemp("guarded")
    with start_registry(root, auth=htpasswd_auth(root, "alice", "pass:word")) as running:
        yield running


def test_basic_login(guarded: Registry, tmp_path: Path, sample: Sample) -> None:
    place = f"{guarded.host}/basic:v1"
    options = StoreOptions(auth_file=login_file(tmp_path, guarded.host, "alice", "pass:word"))
    push(place, sample, options)
    check(place, sample, options)
    environment = {"HOME": str(tmp_path), "REGISTRY_AUTH_FILE": str(tmp_path / "auth.json")}
    check(place, sample, StoreOptions(environment=environment))


@pytest.mark.parametrize("password", [None, "wr0ng-secret"])
def test_basic_login_refused(guarded: Registry, tmp_path: Path, password: str | None) -> None:
    options = StoreOptions()
    if password:
        options = StoreOptions(auth_file=login_file(tmp_path, guarded.host, "alice", password))
    says = "stored login is refused" if password else "needs a login, and none is stored"
    with (
        closing(open_reader(f"{guarded.host}/basic:v1", options)) as reader,
        pytest.raises(AccessError, match=says) as caught,
    ):
        reader.resolve()
    assert "401" in str(caught.value)
    assert "wr0ng" not in repr(caught.value)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TokenServer]:
    with start_token_server(tmp_path_factory.mktemp("tokens")) as server:
        server.grants = {("alice", "secret"): {"pull", "push"}, ("", ""): {"pull"}}
        server.identity_tokens = {"identity": ("alice", "secret")}
        yield server


@pytest.fixture(scope="module")
def token_registry(
    tokens: TokenServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Registry]:
    with start_registry(tmp_path_factory.mktemp("tokenreg"), auth=tokens.auth) as running:
        yield running


def alice(root: Path, registry: Registry) -> StoreOptions:
    return StoreOptions(auth_file=login_file(root, registry.host, "alice", "secret"), retry=ONCE)


def test_token_login(
    token_registry: Registry, tokens: TokenServer, tmp_path: Path, sample: Sample
) -> None:
    place = f"{token_registry.host}/token/login:v1"
    push(place, sample, alice(tmp_path, token_registry))
    before = len(tokens.requests)
    check(place, sample)  # anyone may pull
    assert [user for _, _, user in tokens.requests[before:]] == [""]
    method, query, _ = tokens.requests[-1]
    assert method == "GET"
    assert query["scope"] == ["repository:token/login:pull"]
    assert query["service"] == ["tests-registry"]


def test_push_needs_a_login(token_registry: Registry, sample: Sample) -> None:
    with pytest.raises(AccessError, match="needs a login, and none is stored"):
        push(f"{token_registry.host}/token/anonymous:v1", sample)


def test_token_server_refuses_the_login(
    token_registry: Registry, tmp_path: Path, sample: Sample
) -> None:
    file = login_file(tmp_path, token_registry.host, "alice", "wr0ng")
    with pytest.raises(AccessError, match="refuses the stored login") as caught:
        check(f"{token_registry.host}/token/login:v1", sample, StoreOptions(auth_file=file))
    assert "wr0ng" not in repr(caught.value)


def test_identity_token(
    token_registry: Registry, tokens: TokenServer, tmp_path: Path, sample: Sample
) -> None:
    file = tmp_path / "auth.json"
    file.write_text(json.dumps({"auths": {token_registry.host: {"identitytoken": "identity"}}}))
    push(f"{token_registry.host}/token/identity:v1", sample, StoreOptions(auth_file=file))
    method, form, user = tokens.requests[-1]
    assert (method, user) == ("POST", "alice")
    assert form["grant_type"] == ["refresh_token"]


def test_expired_token_is_renewed(
    token_registry: Registry, tokens: TokenServer, tmp_path: Path, sample: Sample
) -> None:
    """A token dies before the time that was said; the registry's 401 brings a new one."""
    place, options = f"{token_registry.host}/token/expired:v1", alice(tmp_path, token_registry)
    push(place, sample, options)
    tokens.lives = [-59.0]  # the registry forgives 60 seconds
    before = len(tokens.requests)
    with closing(open_reader(place, options)) as reader:
        reader.resolve()
        time.sleep(2.5)
        layer = sample.layers[0]
        with reader.open_blob(layer) as stream:
            assert stream.read() == sample.blobs[layer.digest]
    assert len(tokens.requests) - before == 2


def test_a_new_token_that_is_refused_is_not_fetched_for_ever(
    token_registry: Registry, tokens: TokenServer, tmp_path: Path, sample: Sample
) -> None:
    tokens.lives = [-500.0] * 9
    before = len(tokens.requests)
    with pytest.raises(AccessError, match="not sufficient"):
        check(f"{token_registry.host}/token/login:v1", sample, alice(tmp_path, token_registry))
    assert len(tokens.requests) - before == 1
    tokens.lives.clear()


def test_mount_asks_for_both_repositories(
    token_registry: Registry, tokens: TokenServer, tmp_path: Path, sample: Sample
) -> None:
    options = alice(tmp_path, token_registry)
    source = f"{token_registry.host}/token/source:v1"
    push(source, sample, options)
    target = f"{token_registry.host}/token/target:v1"
    with closing(open_writer(target, options)) as writer:
        assert writer.mount_blob(sample.layers[0], parse_reference(source))
    assert sorted(tokens.requests[-1][1]["scope"]) == [
        "repository:token/source:pull",
        "repository:token/target:pull,push",
    ]


def test_tls(tmp_path: Path, sample: Sample) -> None:
    certificate, key = self_signed(tmp_path)
    tls = {"certificate": str(certificate), "key": str(key)}
    with start_registry(tmp_path, tls=tls) as registry:
        place = f"{registry.host}/tls:v1"
        push(place, sample, StoreOptions(ca_file=certificate))
        check(place, sample, StoreOptions(ca_file=certificate))
        check(place, sample, StoreOptions(insecure=True))
        with pytest.raises(UnreachableError, match=r"certificate not trusted: self.signed"):
            check(place, sample)
        with pytest.raises(Failure, match="status 400"):
            check(place, sample, StoreOptions(plain_http=True, retry=ONCE))


def test_insecure_and_plain_http_reach_an_open_registry(registry: Registry, sample: Sample) -> None:
    place = f"{registry.host}/open:v1"
    push(place, sample, StoreOptions(insecure=True))
    check(place, sample, StoreOptions(plain_http=True))
    check(place, sample, StoreOptions(insecure=True))


@pytest.mark.skipif(not shutil.which("skopeo"), reason="skopeo not installed")
@pytest.mark.parametrize("shape", ["oci", "v2s2"])
def test_skopeo_pushes_and_pulls(
    registry: Registry, tmp_path: Path, sample: Sample, shape: str
) -> None:
    """Also in Docker's schema 2; and what we push, skopeo reads."""
    push(f"{registry.host}/ours:v1", sample)
    ours, theirs = f"{registry.host}/ours:v1", f"{registry.host}/skopeo/{shape}:v1"
    flags = ["-q", "--insecure-policy", "--src-tls-verify=false", "--dest-tls-verify=false"]
    command = ["skopeo", "copy", *flags, "--format", shape]
    subprocess.run([*command, f"docker://{ours}", f"docker://{theirs}"], check=True)
    with closing(open_reader(theirs)) as reader:
        image = reader.resolve()
        assert image.manifest.media_type == {"oci": OCI_MANIFEST, "v2s2": DOCKER_MANIFEST}[shape]
        assert [layer.digest for layer in image.manifest.layers] == list(sample.blobs)[:2]
        assert {layer_compression(layer.media_type) for layer in image.manifest.layers} == {"gzip"}
        assert image.config.cmd == ["x"]


def test_clear_text_elsewhere_must_be_asked_for(registry: Registry) -> None:
    """A name that is not loopback gets https only, wherever it leads."""
    port = registry.host.rpartition(":")[2]
    place = f"{socket.gethostname()}:{port}/open:v1"
    with (
        closing(open_reader(place, StoreOptions(retry=ONCE))) as reader,
        pytest.raises(UnreachableError),
    ):
        reader.resolve()
    assert not registry.requests(f"{socket.gethostname()}:{port}")


def test_nobody_there(tmp_path: Path) -> None:
    with (
        closing(open_reader("127.0.0.1:1/a", StoreOptions(retry=ONCE))) as reader,
        pytest.raises(UnreachableError, match=r"127\.0\.0\.1:1: Connection refused"),
    ):
        reader.resolve()
