#!/bin/sh
# Run once by the image of PostgreSQL, when the database is made: a user for Grafana that may look at the tables that the
# dashboards read, and at nothing else. Whoever may use the data source can ask for anything that this user may see. The
# daemon makes the tables later, so that each is opened when it is made.
set -eu
psql --set=ON_ERROR_STOP=1 --set=password="$READER_PASSWORD" --set=database="$POSTGRES_DB" \
    --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" <<'SQL'
CREATE ROLE grafana LOGIN PASSWORD :'password';
ALTER ROLE grafana SET default_transaction_read_only = on;
ALTER ROLE grafana SET statement_timeout = '15s';
GRANT CONNECT ON DATABASE :"database" TO grafana;
GRANT USAGE ON SCHEMA public TO grafana;
CREATE FUNCTION open_to_grafana() RETURNS event_trigger LANGUAGE plpgsql AS $$
DECLARE
    made text;
BEGIN
    FOR made IN SELECT object_identity FROM pg_event_trigger_ddl_commands()
        WHERE object_identity IN ('public.jobs', 'public.attempts', 'public.manifests')
    LOOP
        EXECUTE 'GRANT SELECT ON ' || made || ' TO grafana';
    END LOOP;
END $$;
CREATE EVENT TRIGGER open_to_grafana ON ddl_command_end WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION open_to_grafana();
SQL
