-- One database with its two roles. Run by psql as superuser, once per database; running it again changes
-- nothing but the passwords. It reads its values from the environment, so that no password stands on a
-- command line:
--
--   DATABASE           orderdb
--   OWNER              order_owner     owns the database and runs the migrations
--   OWNER_PASSWORD
--   SERVICE            order_service   what the service connects as: no DDL, no temporary tables
--   SERVICE_PASSWORD
--
-- Grants on tables are the migrations' business: they know which ones are append-only.
\set ON_ERROR_STOP on
\set QUIET on
\getenv database DATABASE
\getenv owner OWNER
\getenv owner_password OWNER_PASSWORD
\getenv service SERVICE
\getenv service_password SERVICE_PASSWORD

-- Passwords must not reach the server's log, neither as slow statements nor as failed ones.
SET log_min_duration_statement = -1;
SET log_min_error_statement = 'panic';
SET client_min_messages = warning;

SELECT format('CREATE ROLE %I LOGIN', role)
FROM unnest(ARRAY[:'owner', :'service']) AS role
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role)
\gexec
ALTER ROLE :"owner" PASSWORD :'owner_password';
ALTER ROLE :"service" PASSWORD :'service_password';

SELECT format('CREATE DATABASE %I OWNER %I', :'database', :'owner')
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'database')
\gexec
-- The container image may have created it, owned by the superuser.
ALTER DATABASE :"database" OWNER TO :"owner";
-- CONNECT and TEMPORARY are everybody's by default.
REVOKE ALL ON DATABASE :"database" FROM PUBLIC;
GRANT CONNECT ON DATABASE :"database" TO :"service";

\connect :"database"
SET client_min_messages = warning;
-- The schema belongs to whoever owns the database; nobody else creates anything in it.
ALTER SCHEMA public OWNER TO pg_database_owner;
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO :"service";
