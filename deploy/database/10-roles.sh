#!/bin/sh
# Run once by the database's image, on an empty volume: the owner of the tables, and Grafana's login, which sees views alone.
set -eu
psql --set ON_ERROR_STOP=1 --quiet --username "${POSTGRES_USER:-postgres}" --dbname "${POSTGRES_DB:-postgres}" \
    --set owner_password="$(cat "${SECRETS:-/run/secrets}/db_password")" \
    --set reader_password="$(cat "${SECRETS:-/run/secrets}/grafana_db_password")" <<'SQL'
create role symbiosis login password :'owner_password';
create role symbiosis_reader nologin;
create role grafana login password :'reader_password' in role symbiosis_reader;
alter role grafana set statement_timeout = '15s';
alter role grafana set default_transaction_read_only = on;
create database symbiosis owner symbiosis;
SQL
