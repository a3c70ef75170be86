#!/bin/sh
# Runs a command with PGPASSWORD from the secret file that PGPASSWORD_FILE names: neither the container's settings nor its
# process list hold the password.
set -eu
if [ -n "${PGPASSWORD_FILE:-}" ]; then
    PGPASSWORD=$(cat "$PGPASSWORD_FILE")
    export PGPASSWORD
fi
exec "$@"
