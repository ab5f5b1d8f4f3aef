#!/bin/sh
# Installs what the interop suite talks to, where it is missing: openssl, curl, dig and Chromium.
# Works as root on a bare Debian or Ubuntu; elsewhere it says what has to be installed.
set -eu

missing=""
need() { # COMMAND PACKAGE
    if command -v "$1" >/dev/null 2>&1; then
        echo "interop: $1 is $(command -v "$1")"
    else
        missing="$missing $2"
    fi
}
need openssl openssl
need curl curl
need dig dnsutils
need chromium "chromium fonts-dejavu-core"
[ -n "$missing" ] || exit 0

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
