#!/usr/bin/env bash
# Installs the tested environment into ~/ensemble_tune/venv of the machine it runs on. A second call changes nothing.
#
#   bash ~/ensemble_tune/install.sh [EXTRA]      EXTRA: aws or gcp, what Ray's head needs to start machines there
#
# Beside it must lie constraints.txt and a wheel of ensemble_tune; of several, the newest is installed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
extra=${1:+[$1]}
wheel=$(ls -t ensemble_tune-*.whl | head -n 1)
tested=$(cat constraints.txt "$wheel" | sha256sum)

# The token is its owner's alone, however it was carried here.
chmod 700 ~/.ray && chmod 600 ~/.ray/auth_token

# Whatever is run on this machine finds the environment, and asks for the token.
touch ~/.bashrc
grep -q ensemble_tune/venv ~/.bashrc || cat >> ~/.bashrc <<'PROFILE'
export PATH="$HOME/ensemble_tune/venv/bin:$PATH" RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
PROFILE

if [ "$(cat venv/installed 2>/dev/null)" = "$tested$extra" ]; then
    exit 0
fi
if ! command -v python3.11 >/dev/null && command -v apt-get >/dev/null; then
    # A machine that has just started may still be updating itself.
    sudo apt-get -o DPkg::Lock::Timeout=300 update -q
    sudo DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -qy python3.11 python3.11-venv
fi
if ! command -v python3.11 >/dev/null; then
    echo "error: the tested Python is 3.11, but this machine has none; install it, or choose another image" >&2
    exit 1
fi
[ -x venv/bin/python ] || python3.11 -m venv venv
install=(venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt)
"${install[@]}" "./$wheel$extra"
# A wheel that was built again has the same version, which pip would take for installed.
"${install[@]}" --no-deps --force-reinstall "./$wheel"
echo "$tested$extra" > venv/installed
