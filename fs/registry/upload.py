"""Putting a blob into a registry: POST and one PUT, or a mount from a repository beside it.

An upload that breaks is begun anew. What it left is not visible to anyone, and the
registry's to purge: docker-registry refuses to cancel an upload that got bytes.
"""

from __future__ import annotations

import contextlib
from urllib.parse import urlencode

from fs.format.errors import AccessError, Failure, NotFoundError, VerifyError
from fs.registry.body import BlobBody
from fs.registry.client import Call, RegistryClient
from fs.registry.descriptor import Descriptor
from fs.registry.digest import is_digest
from fs.registry.places import Progress


def upload_blob(
    client: RegistryClient,
    descriptor: Descriptor,
    body: BlobBody,
    progress: Progress | None,
) -> None:
    """Store a blob, verified on the way, starting over after each temporary fault."""

    def attempt() -> None:
        target = client.start_upload(client.push_scopes, {})
        if target is None:  # the registry says that it has the blob, which it was not told of
            if not client.has_blob(descriptor.digest, descriptor.size):
                name = client.reference.name
                raise VerifyError(f"{name}: answers the upload of {descriptor.digest} with 201,"
                                  " but does not have it")  # fmt: skip
            return
        sent = 0

        def count(size: int) -> None:
            nonlocal sent
            sent += size
            if progress:
                progress(size)

        try:
            _put(client, descriptor, body, target, count)
        except BaseException:
            if sent:
                count(-sent)
            raise

    client.retry.run(attempt)


def check_upload(client: RegistryClient) -> None:
    """One attempt to begin an upload and take it back: AccessError where we may not push."""
    target = client.start_upload(client.push_scopes, {})
    if target is not None:
        _cancel(client, target)


def mount_blob(client: RegistryClient, digest: str, repository: str) -> bool:
    """One attempt to have a blob of `repository` in ours, which the registry may decline."""
    scopes = tuple(sorted((*client.push_scopes, f"repository:{repository}:pull")))
    try:
        target = client.start_upload(scopes, {"mount": digest, "from": repository})
    except (AccessError, NotFoundError):  # no right to read there, or nothing to be read
        return False
    if target is not None:
        _cancel(client, target)
        return False
    return client.has_blob(digest)


def _cancel(client: RegistryClient, target: str) -> None:
    cancel = Call("DELETE", target, "upload", client.push_scopes, (200, 202, 204))
    with contextlib.suppress(Failure):  # left empty, it is the registry's
        client.perform(cancel).close()


def _put(
    client: RegistryClient,
    descriptor: Descriptor,
    body: BlobBody,
    target: str,
    progress: Progress,
) -> None:
    joint = "&" if "?" in target else "?"
    call = Call(
        method="PUT",
        url=f"{target}{joint}{urlencode({'digest': descriptor.digest})}",
        what=f"upload of {descriptor.digest}",
        scopes=client.push_scopes,
        good=(201, 204),
        headers={
            "Content-Type": "application/octet-stream",
            "Content-Length": str(descriptor.size),
        },
        body=lambda: body.pieces(progress),
    )
    answer = client.perform(call)
    answer.close()
    stored = answer.headers.get("docker-content-digest", "")
    if is_digest(stored) and stored[:7] == descriptor.digest[:7] and stored != descriptor.digest:
        raise VerifyError(f"{client.reference.name}: stored {descriptor.digest} as {stored}")
