#!/bin/sh
# The oldest glibc that a program runs with: the newest version of a symbol that it asks for.
set -eu
grep -ao 'GLIBC_2\.[0-9.]*[0-9]' "$1" | sort -uV | tail -n 1
