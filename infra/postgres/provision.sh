#!/bin/sh
# Run by the postgres image when it makes a cluster: the databases and roles of one service.
# SERVICES lists database:prefix pairs; <PREFIX>_OWNER_PASSWORD and <PREFIX>_SERVICE_PASSWORD hold the passwords.
set -eu
for pair in $SERVICES; do
    DATABASE=${pair%%:*} prefix=${pair##*:}
    upper=$(echo "$prefix" | tr '[:lower:]' '[:upper:]')
    OWNER=${prefix}_owner SERVICE=${prefix}_service
    OWNER_PASSWORD=$(printenv "${upper}_OWNER_PASSWORD") SERVICE_PASSWORD=$(printenv "${upper}_SERVICE_PASSWORD")
    export DATABASE OWNER SERVICE OWNER_PASSWORD SERVICE_PASSWORD
    psql --no-psqlrc --username "$POSTGRES_USER" --dbname postgres --file /etc/ecom/roles.sql
done
