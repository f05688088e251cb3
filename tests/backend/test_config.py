"""Backends from nydusd's configuration files."""

from __future__ import annotations

import base64
import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from fs.backend.blobs import BlobBackend
from fs.backend.config import load_config
from fs.backend.configured import open_configured
from fs.format.errors import AccessError, FormatError, NotFoundError, UnreachableError, UsageError
from fs.registry.store import StoreOptions, open_writer
from tests.backend.servers import blob_server
from tests.parts.proxy import start_proxy
from tests.parts.registry import htpasswd_auth, start_registry
from tests.registry.images import make_image, push_image
from tests.registry.test_registry import login_file

CONTENT = bytes(range(256)) * 100


def v1(kind: str, **fields: object) -> dict[str, Any]:
    backend = {"type": kind, "config": fields}
    return {"device": {"backend": backend, "cache": {"type": "blobcache"}}, "mode": "direct"}


def v2(kind: str, **fields: object) -> dict[str, Any]:
    return {"version": 2, "backend": {"type": kind, kind: fields}}


def opened(path: Path, document: object, kind: str | None = None) -> BlobBackend:
    path.write_text(json.dumps(document))
    return open_configured(load_config(str(path), kind), StoreOptions())


@pytest.mark.parametrize("shape", ["v1", "v2", "bare"])
def test_shapes(tmp_path: Path, shape: str) -> None:
    (tmp_path / "blob").write_bytes(CONTENT)
    fields = {"dir": str(tmp_path)}
    shapes = {"v1": v1("localfs", **fields), "v2": v2("localfs", **fields), "bare": fields}
    backend = opened(tmp_path / "c", shapes[shape], "localfs" if shape == "bare" else None)
    with closing(backend):
        assert backend.read("blob", 5, 5) == CONTENT[5:10]


def test_directories_in_order(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    (tmp_path / "two/blob").write_bytes(CONTENT)
    document = v1("localfs", dir=str(tmp_path / "one"), alt_dirs=[str(tmp_path / "two")])
    with closing(opened(tmp_path / "c", document)) as backend:
        assert backend.read("blob", 5, 5) == CONTENT[5:10]
        with pytest.raises(NotFoundError, match=r"one/other.*two/other"):
            backend.read("other", 0, 1)
        with pytest.raises(FormatError):
            backend.read("../two/blob", 0, 1)


def test_one_blob_file(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(CONTENT)
    document = v1("localfs", blob_file=str(tmp_path / "data"))
    with closing(opened(tmp_path / "c", document)) as backend:
        assert backend.read("0" * 64, 5, 5) == CONTENT[5:10]


def test_http(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(CONTENT)
    with blob_server(tmp_path) as server:
        host = server.url.removesuffix("/blobs")
        for document in (v1("http", url=server.url), v2("http-proxy", addr=host, path="/blobs")):
            with closing(opened(tmp_path / "c", document)) as backend:
                assert backend.read("blob", 5, 5) == CONTENT[5:10]


def test_http_through_the_proxy_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(CONTENT)
    with blob_server(tmp_path) as server, start_proxy() as proxy:
        proxy.login = "user:s3cret"
        proxy.names["blobs.invalid:80"] = ("127.0.0.1", server.port)
        document = v1("http", url="http://blobs.invalid/blobs")
        document["device"]["backend"]["config"]["proxy"] = {
            "url": f"http://user:s3cret@{proxy.host}"
        }
        with closing(opened(tmp_path / "c", document)) as backend:
            assert backend.read("blob", 5, 5) == CONTENT[5:10]
            proxy.login = "user:other"
            with pytest.raises(AccessError, match="status 407") as caught:
                backend.read("blob", 5, 5)
            assert "s3cret" not in str(caught.value)


@pytest.mark.registry
def test_registry_with_a_login_of_the_file(tmp_path: Path) -> None:
    sample = make_image(b"content" * 1000)
    layer = sample.layers[0]
    with start_registry(tmp_path, auth=htpasswd_auth(tmp_path, "alice", "secret")) as registry:
        auth_file = login_file(tmp_path, registry.host, "alice", "secret")
        place = f"{registry.host}/app:v1"
        with closing(open_writer(place, StoreOptions(auth_file=auth_file))) as writer:
            push_image(writer, sample)
        for auth, refused in (("alice:secret", False), ("alice:wrong", True), ("", True)):
            document = v1(
                "registry",
                scheme="http",
                host=registry.host,
                repo="app",
                auth=base64.b64encode(auth.encode()).decode(),
            )
            with closing(opened(tmp_path / "c", document)) as backend:
                if refused:
                    with pytest.raises(AccessError):
                        backend.read(layer.digest[7:], 3, 9)
                else:
                    part = sample.blobs[layer.digest][3:12]
                    assert backend.read(layer.digest[7:], 3, 9) == part


def test_timeouts_of_the_file(tmp_path: Path) -> None:
    with blob_server(tmp_path) as server:
        server.hold()
        document = v1("http", url=server.url, timeout=0.2)
        backend = opened(tmp_path / "c", document)
        with closing(backend), pytest.raises(UnreachableError, match="timed out"):
            backend.read("blob", 0, 1)


@pytest.mark.parametrize(
    ("document", "kind", "complaint"),
    [
        ([], "localfs", "not a JSON object"),
        ({}, None, "does not say which type"),
        ({}, "oss", "a backend is one of http, http-proxy, localfs, registry, s3"),
        (v1("oss"), None, "a backend is one of"),
        (v1("localfs", dir="x"), "http", "of type localfs, not http"),
        ({"device": 3}, None, "device is no map"),
        ({"device": {"backend": {}}}, None, "has no type"),
        ({"device": {"backend": {"type": "http"}}}, None, "lacks the configuration"),
        (v1("localfs"), None, "dir is missing"),
        (v1("localfs", dir="x", alt_dirs="y"), None, "alt_dirs is no list"),
        (v1("http", url=5), None, "url is missing or no text"),
        (v1("http", url="ftp://x"), None, "http or https URL"),
        (v1("http", url="http://x", timeout="1"), None, "timeout is no number"),
        (v1("http", url="http://x", skip_verify="no"), None, "skip_verify is neither"),
        (v1("registry", host="x"), None, "repo is missing"),
        (v1("registry", host="x", repo="y", scheme="ftp"), None, "scheme is http or https"),
        (v1("registry", host="x", repo="y", auth="s3cret"), None, "auth is not the base64"),
        (v1("registry", host="x", repo="y", blob_redirected_host="z"), None, "not supported"),
    ],
)
def test_mistakes(tmp_path: Path, document: object, kind: str | None, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint) as caught:
        opened(tmp_path / "c", document, kind)
    assert "s3cret" not in str(caught.value)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        load_config(str(tmp_path / "none"), "s3")
