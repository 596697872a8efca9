#!/usr/bin/env bash
# MLflow's server, on the cluster's head: tracking-server.sh start|stop
#
# It listens on 127.0.0.1:5000 only and asks for a name and password. In ~/.mlflow, closed to others:
#   credentials        name and password (MLflow's own format), made at random on the first start
#   backend-store-uri  yours, if you have a PostgreSQL: postgresql://USER:PASSWORD@HOST/DATABASE
#                      (or MLFLOW_BACKEND_STORE_URI says so); without it, SQLite: mlflow.db
#   server.log         what it says
# Artifacts go to MLFLOW_ARTIFACTS_DESTINATION, such as s3://BUCKET/FOLDER, or else to the shared storage.
# Nothing secret is an argument: everybody on a machine can see those.
set -euo pipefail
umask 077
here=$(cd "$(dirname "$0")" && pwd)
program=${here%/*}/.venv/bin/mlflow
address=127.0.0.1:5000
mkdir -p ~/.mlflow
chmod 700 ~/.mlflow
cd ~/.mlflow

random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }

fail() {
  echo "error: tracking server: $*" >&2
  exit 1
}

# When a process began, since the machine's own start.
began() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20; }

# Whether one of its processes is left: the first one, which leads a group as soon as it has begun, or
# another one of that. The number may be somebody else's by now, who began at another time.
runs() {
  local pid boot since
  read -r pid boot since 2>/dev/null <server.pid || return 1
  [ "$boot" = "$(cat /proc/sys/kernel/random/boot_id)" ] || return 1
  { cat /proc/[0-9]*/stat 2>/dev/null || true; } |
    awk -v first="$pid" -v since="$since" '{ pid = $1; sub(/.*\) /, "") }
      pid == first && $20 != since { other = 1 }
      (pid == first || $3 == first) && $1 != "Z" { found = 1 } END { exit other || !found }'
}

answers() {
  "${program%/*}/python" -c 'import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=2)' \
    "http://$address/health" 2>/dev/null
}

database() {
  local found=${MLFLOW_BACKEND_STORE_URI:-sqlite:///$HOME/.mlflow/mlflow.db}
  [ ! -s backend-store-uri ] || found=$(cat backend-store-uri)
  case $found in
    # A bare postgresql:// is another driver's from SQLAlchemy 2.1 on.
    postgres://* | postgresql://*) echo "postgresql+psycopg2://${found#*://}" ;;
    postgresql+psycopg2://* | sqlite:///* | mysql+*://* | mssql+*://*) echo "$found" ;;
    *) fail "the database's address (~/.mlflow/backend-store-uri or MLFLOW_BACKEND_STORE_URI) does not begin with postgresql:// or sqlite:///" ;;
  esac
}

start() {
  local database artifacts now
  database=$(database)
  artifacts=${MLFLOW_ARTIFACTS_DESTINATION:-${FDAN_SHARED:-$HOME/.mlflow}/mlartifacts}
  now=$({ echo "$database $artifacts"; cat "$here"/{tracking-server.sh,basic_auth.ini}; } | sha256sum)
  if runs; then
    if [ "$(cat started-with 2>/dev/null)" = "$now" ] && grep -qs '^State:.[^Z]' "/proc/$(cut -d' ' -f1 server.pid)/status"; then
      echo "tracking server: runs already on http://$address"
      return
    fi
    echo "tracking server: its settings have changed, or half of it is gone: it starts again"
    stop
  fi
  if answers; then
    fail "another program answers on http://$address: stop it, it would be told MLflow's password"
  fi
  [ -x "$program" ] || fail "$program is not there: run cluster/install.sh first"
  [ -s secret-key ] || random >secret-key
  if [ ! -s credentials ]; then
    # The database knows the password's hash only.
    [ ! -f basic_auth.db ] || fail "~/.mlflow/credentials is gone: put it back, or remove ~/.mlflow/basic_auth.db, and all accounts with it, for a new one"
    printf '[mlflow]\nmlflow_tracking_username = admin\nmlflow_tracking_password = %s\n' \
      "$(random)" >credentials
  fi
  echo "$now" >started-with
  find . -maxdepth 1 -type f -exec chmod 600 {} +

  MLFLOW_BACKEND_STORE_URI=$database MLFLOW_ARTIFACTS_DESTINATION=$artifacts \
    MLFLOW_AUTH_CONFIG_PATH=$here/basic_auth.ini \
    MLFLOW_AUTH_ADMIN_USERNAME=$(sed -n 's/^mlflow_tracking_username *= *//p' credentials) \
    MLFLOW_AUTH_ADMIN_PASSWORD=$(sed -n 's/^mlflow_tracking_password *= *//p' credentials) \
    MLFLOW_FLASK_SERVER_SECRET_KEY=$(cat secret-key) \
    MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false \
    MLFLOW_ALLOW_PICKLE_DESERIALIZATION=false \
    MLFLOW_DISABLE_TELEMETRY=true \
    setsid "$program" server --app-name basic-auth --workers 2 \
    --host "${address%:*}" --port "${address#*:}" \
    --allowed-hosts 'localhost:*,127.0.0.1:*' >>server.log 2>&1 </dev/null 9>&- &
  echo "$! $(cat /proc/sys/kernel/random/boot_id) $(began $!)" >server.pid

  for _ in {1..180}; do
    runs || break
    if answers; then
      echo "tracking server: http://$address, name and password in ~/.mlflow/credentials"
      return
    fi
    sleep 1
  done
  tail -n 20 server.log | sed -E 's#://[^@/ ]*@#://***@#g' >&2
  stop
  fail "did not start; its log is ~/.mlflow/server.log"
}

stop() {
  if runs; then
    kill -- "-$(cut -d' ' -f1 server.pid)"
    while runs; do sleep 0.2; done
  fi
  rm -f server.pid
  echo "tracking server: stopped"
}

case ${1-} in
  start | stop)
    exec 9>lock
    flock 9 # one at a time
    "$1"
    ;;
  *) fail "say start or stop" ;;
esac
