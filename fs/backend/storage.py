"""Where blobs are put that no registry keeps: a directory, or a bucket that speaks S3.

The configuration is the one by which they are read afterwards (fs/backend/config.py). A blob
is seen under its name only once it is whole.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from fs.backend.config import BackendConfig
from fs.backend.configured import network_of
from fs.backend.s3 import Bucket, bucket_of
from fs.format.errors import (
    AccessError,
    Failure,
    NotFoundError,
    StorageError,
    UnreachableError,
    UsageError,
    local_errors,
)
from fs.registry.hosts import Trust
from fs.registry.store import StoreOptions

Progress = Callable[[int], None]


class BlobStorage(Protocol):
    """`name` is for messages."""

    @property
    def name(self) -> str: ...

    def check(self) -> None:
        """Raise now what would keep the first blob from being stored."""

    def has(self, blob_id: str, size: int) -> bool: ...

    def push(self, blob_id: str, path: Path, progress: Progress) -> None:
        """Store the file at `path`, in place of what is there."""

    def close(self) -> None: ...


def open_storage(config: BackendConfig, options: StoreOptions) -> BlobStorage:
    """The place that `config` describes; UsageError if blobs can only be read there."""
    if config.kind == "localfs":
        return DirectoryStorage(Path(config.text("dir")))
    if config.kind == "s3":
        return BucketStorage(bucket_of(config), *network_of(config, options))
    raise config.wrong("blobs cannot be put there, only read; use localfs or s3")


class DirectoryStorage:
    """Files named by blob ID."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @property
    def name(self) -> str:
        return str(self._directory)

    def check(self) -> None:
        with local_errors(self._directory):
            self._directory.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self._directory).close()

    def has(self, blob_id: str, size: int) -> bool:
        path = self._directory / blob_id
        with local_errors(path):
            return path.is_file() and path.stat().st_size == size

    def push(self, blob_id: str, path: Path, progress: Progress) -> None:
        with local_errors(self._directory):
            fd, temporary = tempfile.mkstemp(prefix=".new-", dir=self._directory)
            try:
                with os.fdopen(fd, "wb") as file, path.open("rb") as content:
                    shutil.copyfileobj(content, file, 1 << 20)
                    file.flush()
                    os.fchmod(file.fileno(), 0o644)
                    os.fsync(file.fileno())
                    progress(file.tell())
                os.rename(temporary, self._directory / blob_id)
            except BaseException:
                os.unlink(temporary)
                raise

    def close(self) -> None:
        """Nothing is kept open."""


class BucketStorage:
    """Objects named PREFIX<blob id>, put there by Amazon's own library, in parts if large."""

    def __init__(self, bucket: Bucket, options: StoreOptions, trust: Trust) -> None:
        self._bucket = bucket
        self._client = _client(bucket, options, trust)

    @property
    def name(self) -> str:
        return f"s3://{self._bucket.name}/{self._bucket.prefix}"

    def check(self) -> None:
        self._call(lambda: self._client.head_bucket(Bucket=self._bucket.name))

    def has(self, blob_id: str, size: int) -> bool:
        key = self._bucket.prefix + blob_id
        try:
            found = self._call(lambda: self._client.head_object(Bucket=self._bucket.name, Key=key))
        except NotFoundError:
            return False
        return bool(found["ContentLength"] == size)

    def push(self, blob_id: str, path: Path, progress: Progress) -> None:
        key = self._bucket.prefix + blob_id
        self._call(
            lambda: self._client.upload_file(str(path), self._bucket.name, key, Callback=progress)
        )
        if not self.has(blob_id, path.stat().st_size):
            raise StorageError(f"{self.name}{blob_id}: stored with another size")

    def close(self) -> None:
        self._client.close()

    def _call(self, operation: Callable[[], Any]) -> Any:  # noqa: ANN401 - boto3 has no types
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return operation()
        except ClientError as error:
            raise self._failure(error) from None
        except (BotoCoreError, Boto3Error) as error:
            cause = error.__cause__ or error.__context__
            if isinstance(cause, ClientError):
                raise self._failure(cause) from None
            raise UnreachableError(f"{self.name}: {error}") from None

    def _failure(self, error: Any) -> Failure:  # noqa: ANN401
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        code = str(error.response.get("Error", {}).get("Code", ""))[:80]
        message = f"{self.name}: refused (status {status} {code})"
        if status in (401, 403):
            return AccessError(message)
        if status == 404:
            return NotFoundError(f"{self.name}: not found (status {status} {code})")
        return UnreachableError(message)


def _client(bucket: Bucket, options: StoreOptions, trust: Trust) -> Any:  # noqa: ANN401
    try:
        import boto3
        from botocore.config import Config
    except ImportError:
        raise UsageError("putting blobs into S3 needs boto3: install lazyrun[s3]") from None
    needed = "when_required"  # other servers than Amazon's do not know its newer checksums
    config = Config(
        s3={"addressing_style": "path"},
        connect_timeout=options.connect_timeout,
        read_timeout=options.read_timeout,
        retries={"mode": "standard", "total_max_attempts": options.retry.attempts},
        request_checksum_calculation=needed,
        response_checksum_validation=needed,
    )
    keys = {
        "aws_access_key_id": bucket.key_id or None,
        "aws_secret_access_key": bucket.secret or None,
        "aws_session_token": bucket.token or None,
    }
    if len(trust.ca_files) > 1:
        raise UsageError("S3 takes one file of certificates only")
    return boto3.session.Session().client(
        "s3",
        region_name=bucket.region,
        endpoint_url=f"{bucket.scheme}://{bucket.endpoint}",
        verify=(str(trust.ca_files[0]) if trust.ca_files else None) if trust.checked else False,
        config=config,
        **keys,
    )
