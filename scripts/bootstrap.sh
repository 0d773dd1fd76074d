#!/bin/sh
# Installs what the build needs and the machine lacks. With apt-get, as root or through sudo; elsewhere it says what is
# missing and stops. Silent and instant when all is there.
#
#     scripts/bootstrap.sh [command]        for all, or for the command alone
set -eu

has() { command -v "$1" >/dev/null 2>&1; }

# Anything from 17 on has what Spark needs; `javac` tells a JDK from a JRE.
has_jdk() { has javac && [ "$(javac -version 2>&1 | sed 's/^javac \([0-9]*\).*/\1/')" -ge 17 ]; }
has_python() { has python3 && python3 -c 'import ensurepip, sys, venv; assert sys.version_info >= (3, 11)' 2>/dev/null; }
# rustup leaves cargo where only new shells look.
has_cargo() { has cargo || [ -x "${CARGO_HOME:-$HOME/.cargo}/bin/cargo" ]; }

scope=${1:-all}

# One line a need: what it is called, how to see it, and the Debian packages that give it.
needs() {
    cat <<END
a C compiler|has cc|gcc libc6-dev
Python 3.11 or later with venv|has_python|python3 python3-venv
curl|has_cargo || has curl|curl ca-certificates
END
    [ "$scope" = all ] || return 0
    cat <<END
a JDK, 17 or later|has_jdk|openjdk-17-jdk-headless
Maven|has mvn|maven
npm|has npm|nodejs npm
END
}

# missing FIELD: that field of every need that is not met.
missing() {
    needs | while IFS='|' read -r name rest; do
        test=${rest%|*} packages=${rest##*|}
        eval "$test" && continue
        [ "$1" = name ] && echo "  $name" || echo "$packages"
    done
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

stop() {
    echo "bootstrap: missing on this machine:" >&2
    missing name >&2
    has_cargo || echo "  cargo, from rustup" >&2
    echo "bootstrap: $1" >&2
    exit 1
}

packages=$(missing packages)
if [ -n "$packages" ]; then
    has apt-get || stop "there is no apt-get to install it with; please install it and run make again"
    [ "$(id -u)" -eq 0 ] || has sudo || stop "installing needs root or sudo"
    echo "bootstrap: apt-get install" $packages
    as_root apt-get update -qq
    # Words on purpose: a list of packages.
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages >/dev/null ||
        stop "apt-get could not install it"
    [ -z "$(missing name)" ] || stop "apt-get installed something, but not in a version that serves"
fi
if ! has_cargo; then
    echo "bootstrap: installing Rust through rustup"
    # Newer Debians have rustup as a package.
    if has apt-get && as_root apt-get install -y -qq rustup >/dev/null 2>&1; then
        rustup toolchain install stable --profile minimal --component clippy,rustfmt
    else
        curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs |
            sh -s -- -y --quiet --profile minimal --component clippy,rustfmt
    fi || stop "Rust could not be installed; see rustup.rs"
fi
