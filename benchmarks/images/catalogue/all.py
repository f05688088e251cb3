"""All recipes by name, and the few that a quick run uses."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.images.catalogue.applications import MARIADB, RABBITMQ, TOMCAT, WORDPRESS
from benchmarks.images.catalogue.compiled import GCC, GOLANG, OPENJDK
from benchmarks.images.catalogue.languages import FLASK, NODE, PERL, PHP, PYTHON, RUBY
from benchmarks.images.catalogue.servers import MEMCACHED, NGINX, POSTGRES, REDIS
from benchmarks.images.catalogue.systems import BUSYBOX, DEBIAN
from benchmarks.images.recipe import Recipe

RECIPES = {
    recipe.name: recipe
    for recipe in (
        BUSYBOX, DEBIAN, PYTHON, FLASK, PERL, NODE, RUBY, PHP, REDIS, MEMCACHED, NGINX,
        POSTGRES, OPENJDK, GCC, GOLANG, TOMCAT, MARIADB, RABBITMQ, WORDPRESS,
    )
}  # fmt: skip

QUICK = ("python", "redis", "nginx", "openjdk")


def chosen(names: str | None, *, quick: bool = False) -> list[Recipe]:
    """Recipes by comma-separated names; LookupError names what is not there."""
    wanted: Sequence[str] = QUICK if quick else list(RECIPES)
    if names:
        wanted = [name.strip() for name in names.split(",") if name.strip()]
    for name in wanted:
        if name not in RECIPES:
            raise LookupError(f"no image {name!r}; there are {', '.join(RECIPES)}")
    return [RECIPES[name] for name in wanted]
