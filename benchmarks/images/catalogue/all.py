"""All recipes by name, and the few that a quick run uses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.images.catalogue.applications import MARIADB, RABBITMQ, TOMCAT, WORDPRESS
from benchmarks.images.catalogue.compiled import GCC, GOLANG, OPENJDK
from benchmarks.images.catalogue.languages import FLASK, NODE, PERL, PHP, PYTHON, RUBY, TENSORFLOW
from benchmarks.images.catalogue.servers import MEMCACHED, NGINX, NGINX_SMALL, POSTGRES, REDIS
from benchmarks.images.catalogue.systems import BUSYBOX, DEBIAN, alpine
from benchmarks.images.recipe import Recipe

RECIPES = {
    recipe.name: recipe
    for recipe in (
        BUSYBOX, DEBIAN, PYTHON, FLASK, PERL, NODE, RUBY, PHP, REDIS, MEMCACHED, NGINX,
        NGINX_SMALL, POSTGRES, OPENJDK, GCC, GOLANG, TOMCAT, MARIADB, RABBITMQ, WORDPRESS,
        TENSORFLOW,
    )
}  # fmt: skip

QUICK = ("python", "redis", "nginx", "openjdk")


def chosen(
    names: str | None, *, quick: bool = False, alpine_file: Path | None = None
) -> list[Recipe]:
    """Recipes by comma-separated names; LookupError names what is not there.

    With the root file system of Alpine as a file, that image is one more; OSError if it cannot
    be read.
    """
    if alpine_file:
        alpine_file.open("rb").close()
    known = RECIPES | ({"alpine": alpine(alpine_file)} if alpine_file else {})
    wanted: Sequence[str] = QUICK if quick else list(known)
    if names:
        wanted = [name.strip() for name in names.split(",") if name.strip()]
    for name in wanted:
        if name not in known:
            raise LookupError(f"no image {name!r}; there are {', '.join(known)}")
    return [known[name] for name in wanted]
