#!/usr/bin/env bash
# A node's set-up, which `ray up` runs on each: install.sh SHARED, the folder that all nodes see.
# Needs bash, rsync and Python 3.11 or newer; done in a second where nothing has changed.
set -euo pipefail
cd "$(dirname "$0")/.."
shared=$1

fail() {
  echo "error: $(hostname): $*" >&2
  exit 1
}

# A copy has the permissions that the file had on the laptop.
chmod 700 ~/.ray
chmod 600 ~/.ray/auth_token

exec 9>.install.lock
flock 9 # nodes may have one home in common

[ -d "$shared" ] && [ -w "$shared" ] ||
  fail "shared storage $shared is not a folder that $(id -un) can write to: mount it there, then ray up again"
# A trial's folder belongs to one worker at a time, and locks tell whose it is.
{ flock -w 60 8; } 8>"$shared/.fdan-search-$(id -u).lock" ||
  fail "shared storage $shared has no file locks: mount it with them (Lustre: -o flock), then ray up again"
python=$(command -v python3) || fail "there is no python3: install Python 3.11 or newer, then ray up again"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  fail "fdan-search needs Python 3.11 or newer, $python is $("$python" -V): install one in front of it on the PATH, then ray up again"

wanted=$(cat pyproject.toml constraints.txt | sha256sum)
if [ "$(cat .venv/ready 2>/dev/null)" != "$wanted" ] || ! .venv/bin/python -V >/dev/null 2>&1; then
  if ! uv=$(command -v uv); then
    [ -x .uv/bin/uv ] || { "$python" -m venv .uv && .uv/bin/python -m pip install --quiet uv; }
    uv=.uv/bin/uv
  fi
  rm -f .venv/ready # what is cut off here is not taken for whole, whichever version comes next
  .venv/bin/python -V >/dev/null 2>&1 || { rm -rf .venv && "$uv" venv --quiet --python "$python" .venv; }
  "$uv" pip install --quiet --python .venv/bin/python -c constraints.txt -e '.[cluster]'
  echo "$wanted" >.venv/ready
fi

# In front: many a ~/.bashrc ends early where there is no terminal.
touch ~/.bashrc
[ -s ~/.bashrc ] || [ ! -s ~/.bashrc.new ] || cat ~/.bashrc.new >~/.bashrc # cut off below
others=$(sed '/# fdan-search$/d' ~/.bashrc)
printf 'export FDAN_SHARED=%q; . ~/fdan-search/cluster/environment.sh # fdan-search\n%s\n' \
  "$shared" "$others" >~/.bashrc.new
cat ~/.bashrc.new >~/.bashrc # keeps its permissions, and a link a link
rm ~/.bashrc.new
