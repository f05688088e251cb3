"""Blobs in a bucket that speaks Amazon's S3: GET SCHEME://ENDPOINT/BUCKET/PREFIX<blob id>.

Requests are signed (version 4) by botocore, an optional dependency that is loaded
here only, and sent by our own transport. Without keys they are sent unsigned, for
public buckets.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import quote

from fs.backend.config import BackendConfig
from fs.backend.http import HttpBackend, Sign
from fs.format.errors import UsageError
from fs.registry.hosts import Trust
from fs.registry.store import StoreOptions


class Bucket(NamedTuple):
    """Does not show its keys."""

    endpoint: str
    region: str
    name: str
    prefix: str = ""
    scheme: str = "https"
    key_id: str = ""
    secret: str = ""
    token: str = ""

    def __repr__(self) -> str:
        return f"Bucket({self.scheme}://{self.endpoint}/{self.name})"


def bucket_of(config: BackendConfig) -> Bucket:
    """The bucket of a configuration of kind s3; UsageError."""
    return Bucket(
        endpoint=config.text("endpoint"),
        region=config.text("region"),
        name=config.text("bucket_name"),
        prefix=config.text("object_prefix", ""),
        scheme=config.text("scheme", "https"),
        key_id=config.text("access_key_id", ""),
        secret=config.text("access_key_secret", ""),
        token=config.text("session_token", ""),
    )


def open_bucket(bucket: Bucket, options: StoreOptions, trust: Trust | None = None) -> HttpBackend:
    """A backend of the blobs in `bucket`; UsageError if botocore is needed and not there."""
    url = f"{bucket.scheme}://{bucket.endpoint}/{quote(bucket.name)}/{quote(bucket.prefix)}"
    sign = _signer(bucket) if bucket.key_id else None
    return HttpBackend(url, options, trust=trust, sign=sign)


def _signer(bucket: Bucket) -> Sign:
    try:
        from botocore.auth import S3SigV4Auth
        from botocore.awsrequest import AWSRequest
        from botocore.credentials import Credentials
    except ImportError:
        raise UsageError("signing requests to S3 needs botocore: install lazyrun[s3]") from None
    signer = S3SigV4Auth(
        Credentials(bucket.key_id, bucket.secret, bucket.token or None), "s3", bucket.region
    )

    def sign(url: str, headers: Mapping[str, str]) -> Mapping[str, str]:
        # What proxies may change on the way is not signed.
        request = AWSRequest("GET", url, headers={"Range": headers["Range"]})
        signer.add_auth(request)
        return {**headers, **request.headers}

    return sign
