"""What the registry client does when uploads fail or go astray."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from fs.format.errors import VerifyError
from fs.registry.mediatypes import OCI_MANIFEST
from fs.registry.reference import parse_reference
from fs.registry.store import open_writer
from tests.registry.faulty import Behaviour, Reply, Request
from tests.registry.images import make_image
from tests.registry.world import BLOB, LAYER, World, login, script

SAMPLE = make_image(b"x")


def upload_server(put: Behaviour, location: str = "/up?state=1") -> Behaviour:
    def behave(request: Request) -> Reply:
        if request.method == "HEAD":
            return Reply(404)
        if request.method == "POST":
            return Reply(202, {"Location": location})
        return put(request)

    return behave


def test_upload_to_a_relative_location(world: World) -> None:
    server = world.server(upload_server(script(Reply(201))))
    with closing(open_writer(f"{server.host}/repo:tag", world.options)) as writer:
        writer.push_blob(LAYER, BLOB)
    put = server.requests[-1]
    assert put.body == BLOB
    assert put.path == f"/up?state=1&digest=sha256%3A{LAYER.digest[7:]}"
    assert put.headers["content-length"] == str(len(BLOB))


def test_upload_to_another_host_without_authorization(world: World, tmp_path: Path) -> None:
    storage = world.server(script(Reply(201)))

    def front(request: Request) -> Reply:
        if "authorization" not in request.headers:
            return Reply(401, {"WWW-Authenticate": 'Basic realm="r"'})
        return upload_server(script(Reply(500)), f"http://{storage.host}/up")(request)

    server = world.server(front)
    options = login(world, tmp_path, server.host)
    with closing(open_writer(f"{server.host}/repo:tag", options)) as writer:
        writer.push_blob(LAYER, BLOB)
    assert storage.requests[-1].body == BLOB
    assert "authorization" not in storage.requests[-1].headers


def test_broken_upload_starts_over(world: World) -> None:
    server = world.server(upload_server(script(Reply(502), Reply(201))))
    sent: list[int] = []
    with closing(open_writer(f"{server.host}/repo:tag", world.options)) as writer:
        writer.push_blob(LAYER, BLOB, sent.append)
    assert len(server.to("/v2/repo/blobs/uploads/")) == 2
    assert sum(sent) == len(BLOB)


def test_a_registry_that_stores_something_else(world: World) -> None:
    other = {"Docker-Content-Digest": SAMPLE.descriptor.digest}
    server = world.server(upload_server(script(Reply(201, other))))
    with closing(open_writer(f"{server.host}/repo:tag", world.options)) as writer:
        with pytest.raises(VerifyError, match="stored"):
            writer.push_blob(LAYER, BLOB)
        with pytest.raises(VerifyError):
            writer.push_manifest(make_image(b"y").raw, OCI_MANIFEST, tag=True)


@pytest.mark.parametrize("has_it", [False, True])
def test_a_registry_that_wants_no_bytes(world: World, *, has_it: bool) -> None:
    """201 for a POST that named no blob: believed if the blob is there."""
    asked: list[str] = []

    def behave(request: Request) -> Reply:
        if request.method == "HEAD":
            asked.append(request.path)
            there = has_it and len(asked) > 1
            return Reply(200, {"Content-Length": str(len(BLOB))}) if there else Reply(404)
        return Reply(201)

    server = world.server(behave)
    with closing(open_writer(f"{server.host}/repo:tag", world.options)) as writer:
        if has_it:
            writer.push_blob(LAYER, BLOB)
        else:
            with pytest.raises(VerifyError, match="does not have it"):
                writer.push_blob(LAYER, BLOB)
        assert writer.mount_blob(LAYER, parse_reference(f"{server.host}/other:tag")) == has_it
