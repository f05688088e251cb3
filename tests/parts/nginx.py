"""nginx on loopback with a configuration of the test's own."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.parts.registry import await_port, free_port, stop

_CONFIG = """
daemon off;
user root;
worker_processes 1;
pid {root}/pid;
error_log {root}/error.log;
events {{ worker_connections 256; }}
http {{
  access_log {root}/access.log;
  client_body_temp_path {root}/body;
  proxy_temp_path {root}/proxy;
  fastcgi_temp_path {root}/fastcgi;
  uwsgi_temp_path {root}/uwsgi;
  scgi_temp_path {root}/scgi;
  server {{
    listen 127.0.0.1:{port} {listen};
    {server}
  }}
}}
"""


@contextmanager
def start_nginx(root: Path, server: str, *, listen: str = "") -> Iterator[str]:
    """Run nginx with the lines `server` in its server block; its "127.0.0.1:PORT"."""
    root.mkdir(parents=True, exist_ok=True)
    port = free_port()
    config = root / "nginx.conf"
    config.write_text(_CONFIG.format(root=root, port=port, server=server, listen=listen))
    process = subprocess.Popen(
        ["nginx", "-p", str(root), "-e", str(root / "error.log"), "-c", str(config)]
    )
    try:
        await_port(process, port, root / "error.log")
        yield f"127.0.0.1:{port}"
    finally:
        stop(process)
