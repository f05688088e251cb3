"""A world of misbehaving servers and a client of them, for one test."""

from __future__ import annotations

import base64
import itertools
import json
import re
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from fs.registry.descriptor import describe
from fs.registry.mediatypes import OCI_LAYER
from fs.registry.retry import RetryPolicy
from fs.registry.store import ImageReader, StoreOptions, open_reader
from tests.registry.faulty import Behaviour, Faulty, Reply, Request, start_faulty

BLOB = bytes(range(256)) * 1000
LAYER = describe(BLOB, OCI_LAYER)
SECRET = "s3cret-passw0rd"


@dataclass
class World:
    """Servers and clients of one test; `waits` are the seconds that the client slept."""

    stack: ExitStack
    waits: list[float] = field(default_factory=list)

    def server(self, behave: Behaviour) -> Faulty:
        return self.stack.enter_context(start_faulty(behave))

    @property
    def options(self) -> StoreOptions:
        retry = RetryPolicy(attempts=4, sleep=self.waits.append, jitter=lambda: 1.0)
        return StoreOptions(plain_http=True, retry=retry, read_timeout=60)

    def reader(self, server: Faulty, options: StoreOptions | None = None) -> ImageReader:
        reader = open_reader(f"{server.host}/repo:tag", options or self.options)
        return self.stack.enter_context(closing(reader))


def script(*steps: Reply | Behaviour, then: Reply | Behaviour | None = None) -> Behaviour:
    """Answer with each step in turn, then for ever with `then` (or the last step)."""
    queue = itertools.chain(steps, itertools.repeat(then or steps[-1]))

    def behave(request: Request) -> Reply:
        step = next(queue)
        return step(request) if callable(step) else replace(step)

    return behave


def serve(request: Request) -> Reply:
    """A good server of BLOB, with ranges."""
    match = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
    if not match:
        return Reply(body=BLOB)
    first, last = int(match[1]), min(int(match[2] or len(BLOB)), len(BLOB) - 1)
    headers = {"Content-Range": f"bytes {first}-{last}/{len(BLOB)}"}
    return Reply(206, headers, BLOB[first : last + 1])


def cut_after(size: int) -> Behaviour:
    """As `serve`, but the link breaks after `size` bytes."""

    def behave(request: Request) -> Reply:
        reply = serve(request)
        assert isinstance(reply.body, bytes)
        length = {"Content-Length": str(len(reply.body))}
        return Reply(reply.status, reply.headers | length, reply.body[:size], cut=True)

    return behave


def basic() -> str:
    return "Basic " + base64.b64encode(f"alice:{SECRET}".encode()).decode()


def login(world: World, tmp_path: Path, *hosts: str, **entry: str) -> StoreOptions:
    auth = base64.b64encode(f"alice:{SECRET}".encode()).decode()
    path = tmp_path / "auth.json"
    path.write_text(json.dumps({"auths": {host: entry or {"auth": auth} for host in hosts}}))
    return replace(world.options, auth_file=path)
