"""moto's S3 server in a process of its own, which checks signatures."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.parts.registry import await_port, free_port, stop

REGION = "eu-central-1"


@dataclass(frozen=True)
class S3Server:
    """`host` is "127.0.0.1:PORT"; `key_id` and `secret` may do everything."""

    host: str
    key_id: str
    secret: str
    log: Path

    def client(self, service: str) -> Any:  # noqa: ANN401
        """A client of Amazon's own library, to fill the server with."""
        import botocore.session

        return botocore.session.get_session().create_client(
            service,
            region_name=REGION,
            endpoint_url=f"http://{self.host}",
            aws_access_key_id=self.key_id,
            aws_secret_access_key=self.secret,
        )


# Requests that moto takes without a login: those that make the user.
_UNCHECKED = "3"
_POLICY = '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}'


@contextmanager
def start_s3(root: Path) -> Iterator[S3Server]:
    """Run a server with one user, who may do everything."""
    port, log = free_port(), root / "s3.log"
    environment = os.environ | {"INITIAL_NO_AUTH_ACTION_COUNT": _UNCHECKED}
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            env=environment,
            stdout=sink,
            stderr=sink,
        )
    try:
        await_port(process, port, log)
        iam = S3Server(f"127.0.0.1:{port}", "none", "none", log).client("iam")
        iam.create_user(UserName="tests")
        key = iam.create_access_key(UserName="tests")["AccessKey"]
        iam.put_user_policy(UserName="tests", PolicyName="all", PolicyDocument=_POLICY)
        yield S3Server(f"127.0.0.1:{port}", key["AccessKeyId"], key["SecretAccessKey"], log)
    finally:
        stop(process)
