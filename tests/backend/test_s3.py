"""The S3 backend against a real server that checks signatures."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from fs.backend.blobs import BlobBackend
from fs.backend.config import load_config
from fs.backend.configured import open_configured
from fs.format.errors import AccessError, NotFoundError, UsageError, VerifyError
from fs.registry.store import StoreOptions
from tests.parts.s3_server import REGION, S3Server, start_s3

pytestmark = pytest.mark.s3
CONTENT = bytes(range(256)) * 100


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with start_s3(tmp_path_factory.mktemp("s3")) as running:
        s3 = running.client("s3")
        s3.create_bucket(Bucket="blobs", CreateBucketConfiguration={"LocationConstraint": REGION})
        for key in ("blob", "some/prefix+x/blob"):
            s3.put_object(Bucket="blobs", Key=key, Body=CONTENT)
        s3.put_object(Bucket="blobs", Key="public/blob", Body=CONTENT, ACL="public-read")
        yield running


def fields(server: S3Server, **changes: object) -> dict[str, object]:
    return {
        "scheme": "http",
        "endpoint": server.host,
        "region": REGION,
        "bucket_name": "blobs",
        "access_key_id": server.key_id,
        "access_key_secret": server.secret,
        **changes,
    }


def backend(path: Path, document: object) -> BlobBackend:
    path.write_text(json.dumps(document))
    return open_configured(load_config(str(path), "s3"), StoreOptions())


def test_ranges(server: S3Server, tmp_path: Path) -> None:
    with closing(backend(tmp_path / "config", fields(server))) as blobs:
        for offset, length in ((0, 1), (17, 300), (25000, 600), (0, 25600)):
            assert blobs.read("blob", offset, length) == CONTENT[offset : offset + length]
        with pytest.raises(NotFoundError, match="NoSuchKey"):
            blobs.read("other", 0, 1)
        for offset in (25600, 25500):
            with pytest.raises(VerifyError):
                blobs.read("blob", offset, 200)


def test_prefix(server: S3Server, tmp_path: Path) -> None:
    document = {"device": {"backend": {"type": "s3", "config": fields(server)}}}
    document["device"]["backend"]["config"]["object_prefix"] = "some/prefix+x/"  # type: ignore[index]
    with closing(backend(tmp_path / "config", document)) as blobs:
        assert blobs.read("blob", 5, 5) == CONTENT[5:10]


def test_wrong_secret_is_refused_and_not_shown(server: S3Server, tmp_path: Path) -> None:
    wrong = fields(server, access_key_secret="not-the-s3cret")
    with closing(backend(tmp_path / "config", wrong)) as blobs:
        with pytest.raises(AccessError, match="403 SignatureDoesNotMatch") as caught:
            blobs.read("blob", 0, 1)
        assert "s3cret" not in str(caught.value)


def test_without_keys(server: S3Server, tmp_path: Path) -> None:
    unsigned = fields(server, access_key_id="", access_key_secret="")
    with closing(backend(tmp_path / "config", unsigned)) as blobs, pytest.raises(AccessError):
        blobs.read("blob", 0, 1)


def test_botocore_is_loaded_only_for_signing(tmp_path: Path) -> None:
    code = """if True:
        import sys
        from fs.backend.config import BackendConfig
        from fs.backend.configured import open_configured
        from fs.registry.store import StoreOptions
        fields = {"endpoint": "x", "region": "r", "bucket_name": "b"}
        open_configured(BackendConfig("s3", fields, ""), StoreOptions())
        assert "botocore" not in sys.modules
        sys.modules["botocore"] = None
        keys = fields | {"access_key_id": "k", "access_key_secret": "s"}
        open_configured(BackendConfig("s3", keys, ""), StoreOptions())
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "UsageError: signing requests to S3 needs botocore" in done.stderr


def test_missing_fields_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="s3 backend: region is missing"):
        backend(tmp_path / "config", {"endpoint": "x", "bucket_name": "b"})
