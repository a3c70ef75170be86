#!/bin/sh
# Makes the passwords that compose.yaml mounts, once; what is there stays. The folder is closed to others; the files are open,
# because each container reads them as another user.
set -eu
folder="$(dirname "$0")/secrets"
mkdir -p -m 700 "$folder"
for name in db_admin_password db_password grafana_admin_password grafana_db_password; do
    [ -s "$folder/$name" ] || od -An -N24 -tx1 /dev/urandom | tr -d ' \n' > "$folder/$name"
    chmod 644 "$folder/$name"
done
