#!/bin/bash
# The database and the web server in one container: it answers when both do.
set -eo pipefail

mkdir -p /run/mysqld /run/apache2 /run/lock/apache2 /var/log/apache2
chown mysql:mysql /run/mysqld /var/lib/mysql
if [ ! -d /var/lib/mysql/mysql ]; then
    mariadb-install-db --user=mysql --skip-test-db --auth-root-authentication-method=normal >/dev/null
fi
mariadbd --user=mysql &
until mariadb -e 'CREATE DATABASE IF NOT EXISTS wordpress' 2>/dev/null; do
    sleep 0.05
done
. /etc/apache2/envvars
exec apache2 -DFOREGROUND
