#!/bin/sh
# Stops, and says what to do, where Rust's nightly toolchain or one of its components is missing. It is never installed by itself:
# nothing that is shipped is built with it.
#
#     scripts/nightly.sh [component]
set -eu

stop() {
    echo "nightly: missing on this machine; please run: rustup $1" >&2
    exit 1
}

cargo +nightly --version >/dev/null 2>&1 || stop "toolchain install nightly"
for component in "$@"; do
    rustup component list --toolchain nightly --installed | grep -q "^$component" ||
        stop "component add --toolchain nightly $component"
done
