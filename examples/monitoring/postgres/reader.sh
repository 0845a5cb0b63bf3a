#!/bin/sh
# Run once by the image of PostgreSQL, when the database is made: a user for Grafana that may look and do nothing else, at
# all tables that the daemon will make.
set -eu
psql --set=ON_ERROR_STOP=1 --set=password="$READER_PASSWORD" --set=owner="$POSTGRES_USER" --set=database="$POSTGRES_DB" \
    --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" <<'SQL'
CREATE ROLE grafana LOGIN PASSWORD :'password';
ALTER ROLE grafana SET default_transaction_read_only = on;
ALTER ROLE grafana SET statement_timeout = '15s';
GRANT CONNECT ON DATABASE :"database" TO grafana;
GRANT USAGE ON SCHEMA public TO grafana;
ALTER DEFAULT PRIVILEGES FOR ROLE :"owner" IN SCHEMA public GRANT SELECT ON TABLES TO grafana;
SQL
