#!/bin/bash
# As in the image of that name on Docker Hub: makes a database if there is none, then serves it.
set -eo pipefail

if [ "$1" = mariadbd ] && [ "$(id -u)" = 0 ]; then
    mkdir -p /run/mysqld /var/lib/mysql
    chown mysql:mysql /run/mysqld /var/lib/mysql
    exec setpriv --reuid=mysql --regid=mysql --init-groups "$BASH_SOURCE" "$@"
fi
if [ "$1" = mariadbd ] && [ ! -d /var/lib/mysql/mysql ]; then
    mariadb-install-db --skip-test-db --auth-root-authentication-method=normal >/dev/null
fi
exec "$@"
