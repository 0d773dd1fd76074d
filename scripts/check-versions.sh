#!/bin/sh
# One version everywhere: Cargo.toml's is the one that the others are held to. And one build of each crate.
set -eu
cd "$(dirname "$0")/.."

version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
wrong=0

# agree FILE SCRIPT: what the sed script prints of the file are versions, at least one, and all the same as Cargo.toml's.
agree() {
    found=$(sed -n "$2" "$1" | sort -u)
    [ "$found" = "$version" ] && return
    echo "$1 says" ${found:-nothing} "where Cargo.toml says $version" >&2
    wrong=1
}

# A project's own version is indented by two; its dependency on Firesteel stands behind the artifact's name.
for pom in scala/pom.xml examples/spark/pom.xml examples/spark/*/pom.xml; do
    agree "$pom" 's|^  <version>\(.*\)</version>|\1|p'
done
for pom in examples/spark/*/pom.xml; do
    agree "$pom" '/<artifactId>firesteel-spark_2.13</{n;s|.*<version>\(.*\)</version>|\1|p;}'
done
agree python/firesteel/_version.py 's|^__version__ = "\(.*\)"|\1|p'
agree README.md 's|.*firesteel-\([0-9.]*\)-py3-none-any\.whl.*|\1|p'
agree README.md 's|.*firesteel-spark_2.13-\([0-9.]*\)\.jar.*|\1|p'

# With other features of the crates below it, cargo compiles DataFusion for the tests and once more for the command. Ours are not
# below it; the engine's tests have a device without a GPU.
features() {
    cargo tree --quiet --prefix none --format '{p} {f}' "$@" | sed 's/ (\*)$//' | grep -v '^firesteel-' | sort -u
}
tests=$(mktemp)
trap 'rm -f "$tests"' EXIT
features -e normal,build,dev --workspace --exclude firesteel-jvm --exclude firesteel-ballista > "$tests"
if features -e normal,build -p firesteel-cli -p firesteel-ffi | comm -13 "$tests" - | grep .; then
    echo "^ has other features in the tests; name them in native/cli/Cargo.toml" >&2
    wrong=1
fi
exit $wrong
