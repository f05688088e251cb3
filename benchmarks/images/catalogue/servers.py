"""Images of servers."""

from __future__ import annotations

import re

from benchmarks.images.recipe import PATH, Layer, Recipe, Run, http
from benchmarks.images.tree import Tree
from nydusify.startup.readiness import Line, Port


def _redis(tree: Tree) -> None:
    tree.copy("docker-entrypoint.sh", "usr/local/bin/docker-entrypoint.sh", 0o755)
    tree.directory("data", owner="redis")


REDIS = Recipe(
    "redis",
    (
        Layer("redis-server", packages=("redis-server",)),
        Layer("entry point", change=_redis),
    ),
    Run("port", Port(6379, b"PING\r\n", b"+PONG")),
    {
        "Env": [PATH],
        "Entrypoint": ["docker-entrypoint.sh"],
        "Cmd": ["redis-server"],
        "WorkingDir": "/data",
    },
)

MEMCACHED = Recipe(
    "memcached",
    (Layer("memcached", packages=("memcached",)),),
    Run("port", Port(11211, b"version\r\n", b"VERSION ")),
    {"Env": [PATH], "Cmd": ["memcached"], "User": "memcache"},
)


def _nginx(tree: Tree) -> None:
    tree.link("var/log/nginx/access.log", "/dev/stdout")
    tree.link("var/log/nginx/error.log", "/dev/stderr")
    tree.write("var/www/html/index.html", "<h1>Welcome to nginx!</h1>\n")


NGINX = Recipe(
    "nginx",
    (Layer("nginx-light", packages=("nginx-light",)), Layer("logs and a page", change=_nginx)),
    Run("port", http(80, "/", b"Welcome to nginx")),
    {"Env": [PATH], "Cmd": ["nginx", "-g", "daemon off;"], "StopSignal": "SIGQUIT"},
)


def _nginx_small(tree: Tree) -> None:
    """The server with the libraries that it is linked to, and its page: no package manager."""
    program = "/usr/sbin/nginx"
    for path in (program, *re.findall(r"/\S+", tree.run_in_stage("ldd", program))):
        file = tree.run_in_stage("realpath", path).strip()
        tree.write(path[1:], (tree.stage / file[1:]).read_bytes(), 0o755)
    tree.copy("nginx.conf", "etc/nginx/nginx.conf")
    tree.write("www/index.html", "<h1>Welcome to nginx!</h1>\n")
    tree.write("etc/passwd", "root:x:0:0:root:/:/bin/false\nnobody:x:65534:65534::/:/bin/false\n")
    tree.write("etc/group", "root:x:0:\nnogroup:x:65534:\n")
    for path in ("proc", "sys", "dev", "run", "var/log/nginx", "var/lib/nginx"):
        tree.directory(path)


#: What a build in two stages ships: the first one's result alone.
NGINX_SMALL = Recipe(
    "nginx-small",
    (Layer("the server alone", stage=("nginx-light",), change=_nginx_small),),
    Run("port", http(80, "/", b"Welcome to nginx")),
    {"Env": [PATH], "Cmd": ["nginx"], "StopSignal": "SIGQUIT"},
    scratch=True,
)


def _no_cluster(tree: Tree) -> None:
    """The entry point makes the database, not the installation."""
    settings = tree.root / "etc/postgresql-common/createcluster.conf"
    text = settings.read_text()
    tree.write(
        "etc/postgresql-common/createcluster.conf",
        text.replace("#create_main_cluster = true", "create_main_cluster = false"),
    )


def _postgres(tree: Tree) -> None:
    tree.copy("docker-entrypoint.sh", "usr/local/bin/docker-entrypoint.sh", 0o755)
    tree.directory("var/lib/postgresql/data", 0o777, "postgres")


POSTGRES = Recipe(
    "postgres",
    (
        Layer("gosu", packages=("gosu", "postgresql-common"), change=_no_cluster),
        Layer("postgresql-15", packages=("postgresql-15",)),
        Layer("entry point", change=_postgres),
    ),
    Run("log", Line("database system is ready to accept connections")),
    {
        "Env": [PATH + ":/usr/lib/postgresql/15/bin", "LANG=C.UTF-8",
                "PGDATA=/var/lib/postgresql/data"],
        "Entrypoint": ["docker-entrypoint.sh"],
        "Cmd": ["postgres"],
        "StopSignal": "SIGINT",
    },
)  # fmt: skip
