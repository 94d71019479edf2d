#!/usr/bin/env bash
# Prints the path of an haproxy to compare with. What is missing is downloaded and unpacked below target/, so that
# nothing is installed and no service starts.
set -euo pipefail

cd "$(dirname "$0")/.."
folder="$PWD/target/haproxy"

installed=$(PATH="$PATH:/usr/sbin" command -v haproxy || true)
if [ -n "$installed" ]; then
  echo "$installed"
  exit
fi
if [ ! -x "$folder/haproxy" ]; then
  mkdir -p "$folder/packages/partial"
  # The package and those that it needs and this machine lacks.
  apt-get -qq -y --no-install-recommends --download-only \
    -o "Dir::Cache::archives=$folder/packages" -o Debug::NoLocking=1 install haproxy >&2
  for package in "$folder"/packages/*.deb; do
    dpkg-deb --extract "$package" "$folder/root"
  done
  libraries=$(find "$folder/root" -name '*.so*' -printf '%h\n' | sort -u | paste -sd:)
  cat >"$folder/haproxy" <<END
#!/bin/sh
LD_LIBRARY_PATH='$libraries' exec '$folder/root/usr/sbin/haproxy' "\$@"
END
  chmod +x "$folder/haproxy"
fi
echo "$folder/haproxy"
