"""Images of larger applications."""

from __future__ import annotations

from benchmarks.images.catalogue.compiled import JRE
from benchmarks.images.recipe import PATH, Layer, Recipe, Run, http
from benchmarks.images.tree import Tree
from nydusify.startup.readiness import Line, Port


def _tomcat(tree: Tree) -> None:
    for path in ("var/log/tomcat10", "var/cache/tomcat10"):
        tree.directory(path, owner="tomcat")


TOMCAT = Recipe(
    "tomcat",
    (JRE, Layer("tomcat10", packages=("tomcat10",)), Layer("directories", change=_tomcat)),
    Run("port", http(8080, "/", b"It works")),
    {
        "Env": [PATH, "CATALINA_HOME=/usr/share/tomcat10", "CATALINA_BASE=/var/lib/tomcat10"],
        "Cmd": ["/usr/share/tomcat10/bin/catalina.sh", "run"],
        "User": "tomcat",
    },
)

_DATABASE = Layer(
    "mariadb-server-core",
    packages=("mariadb-server-core", "mariadb-client-core", "mariadb-client"),
)


def _mariadb(tree: Tree) -> None:
    tree.run("useradd", "--system", "--no-create-home", "--home-dir", "/nonexistent", "mysql")
    tree.directory("var/lib/mysql", owner="mysql")
    tree.copy("docker-entrypoint.sh", "usr/local/bin/docker-entrypoint.sh", 0o755)


MARIADB = Recipe(
    "mariadb",
    (_DATABASE, Layer("entry point", change=_mariadb)),
    Run("log", Line("ready for connections")),
    {"Env": [PATH], "Entrypoint": ["docker-entrypoint.sh"], "Cmd": ["mariadbd"]},
)


def _rabbitmq(tree: Tree) -> None:
    tree.directory("var/log/rabbitmq", owner="rabbitmq")


RABBITMQ = Recipe(
    "rabbitmq",
    (
        Layer("rabbitmq-server", packages=("rabbitmq-server",)),
        Layer("directories", change=_rabbitmq),
    ),
    Run("port", Port(5672, b"AMQPHELO", b"AMQP")),
    {
        "Env": [PATH, "HOME=/var/lib/rabbitmq", "RABBITMQ_LOGS=-",
                "RABBITMQ_NODENAME=rabbit@localhost"],
        "Cmd": ["/usr/lib/rabbitmq/bin/rabbitmq-server"],
        "User": "rabbitmq",
    },
)  # fmt: skip


def _wordpress(tree: Tree) -> None:
    tree.run("useradd", "--system", "--no-create-home", "--home-dir", "/nonexistent", "mysql")
    tree.directory("var/lib/mysql", owner="mysql")
    tree.copy("docker-entrypoint.sh", "usr/local/bin/docker-entrypoint.sh", 0o755)
    tree.copy("config-localhost.php", "etc/wordpress/config-localhost.php")
    tree.copy("site.conf", "etc/apache2/sites-available/000-default.conf")
    for stream in ("access", "error"):
        tree.link(
            f"var/log/apache2/{stream}.log", f"/dev/std{'out' if stream == 'access' else 'err'}"
        )


WORDPRESS = Recipe(
    "wordpress",
    (
        _DATABASE,
        Layer("apache2 libapache2-mod-php8.2 php8.2-mysql",
              packages=("apache2", "libapache2-mod-php8.2", "php8.2-mysql")),
        Layer("wordpress", packages=("wordpress",)),
        Layer("site and entry point", change=_wordpress),
    ),
    Run("port", http(80, "/wp-admin/install.php", b"WordPress")),
    {"Env": [PATH], "Entrypoint": ["docker-entrypoint.sh"]},
)  # fmt: skip
