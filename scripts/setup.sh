# What demo.sh and test.sh share: functions that install what is missing and say nothing when nothing is.
# Sourced, with `set -euo pipefail` in force and $ROOT naming the repository.
# shellcheck shell=bash

say() { printf '==> %s\n' "$*" >&2; }

die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

# Runs a command whose output matters only if it fails.
quietly() {
  local output
  if ! output=$("$@" 2>&1); then
    printf '%s\n' "$output" >&2
    die "failed: $*"
  fi
}

as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    die "needs root for: $* (run it as root, or install sudo)"
  fi
}

# Debian packages by name. Only ever called for something that was looked for and not found.
apt_install() {
  command -v apt-get >/dev/null || die "no apt-get here; please install by hand what Debian calls: $*"
  say "installing $*"
  if [ -z "${APT_UPDATED:-}" ]; then
    quietly as_root apt-get -o DPkg::Lock::Timeout=120 -o Acquire::Retries=3 -qq update
    APT_UPDATED=1
  fi
  quietly as_root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=120 -o Acquire::Retries=3 \
    -qq -y --no-install-recommends install "$@"
}

# The oldest cargo that builds Handover stands in one place, Cargo.toml.
rust_version_needed() { sed -n 's/^rust-version = "\([0-9.]*\)".*/\1/p' "$ROOT/Cargo.toml"; }

cargo_is_recent() {
  local found
  found=$(cargo --version 2>/dev/null | awk '{ print $2 }') || return 1
  [ -n "$found" ] && printf '%s\n%s\n' "$(rust_version_needed)" "${found%%-*}" | sort -V -C
}

# Downloads rustup's installer, checks it against the checksum published beside it, and runs it.
# `https://sh.rustup.rs` fetches the same file, but checks nothing.
install_rustup() {
  local triple directory base file expected actual
  case "$(uname -m)" in
    x86_64) triple=x86_64-unknown-linux-gnu ;;
    aarch64 | arm64) triple=aarch64-unknown-linux-gnu ;;
    *) die "no rustup known for $(uname -m); please install cargo $(rust_version_needed) or later by hand" ;;
  esac
  if ! command -v curl >/dev/null || [ ! -e /etc/ssl/certs/ca-certificates.crt ]; then
    apt_install curl ca-certificates
  fi
  directory=$(mktemp -d)
  base="${RUSTUP_UPDATE_ROOT:-https://static.rust-lang.org/rustup}/dist/$triple"
  for file in rustup-init rustup-init.sha256; do
    curl --proto '=https' --tlsv1.2 --fail --silent --show-error --location --retry 3 \
      --output "$directory/$file" "$base/$file" ||
      die "cannot download $base/$file; please install cargo $(rust_version_needed) or later by hand"
  done
  expected=$(awk '{ print $1; exit }' "$directory/rustup-init.sha256")
  actual=$(sha256sum "$directory/rustup-init" | awk '{ print $1 }')
  if [ "${#expected}" -ne 64 ] || [ "$expected" != "$actual" ]; then
    die "rustup-init is not what its checksum says: expected '$expected', got '$actual'"
  fi
  chmod +x "$directory/rustup-init"
  RUSTUP_INIT_SKIP_PATH_CHECK=yes quietly "$directory/rustup-init" -y --no-modify-path --profile minimal \
    --default-toolchain stable --component rustfmt --component clippy
  rm -rf "$directory"
}

ensure_cargo() {
  export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
  cargo_is_recent && return
  say "installing Rust $(rust_version_needed) or later (Debian's own is older)"
  if command -v rustup >/dev/null; then
    quietly rustup toolchain install stable --profile minimal --component rustfmt --component clippy
    export RUSTUP_TOOLCHAIN=stable
  else
    install_rustup
  fi
  hash -r
  cargo_is_recent || die "cargo is still older than $(rust_version_needed): $(command -v cargo || echo none)"
}

ensure_cargo_components() {
  if ! cargo fmt --version >/dev/null 2>&1 || ! cargo clippy --version >/dev/null 2>&1; then
    command -v rustup >/dev/null || die "cargo fmt and cargo clippy are missing; please install both"
    say "installing rustfmt and clippy"
    quietly rustup component add rustfmt clippy
  fi
}

ensure_c_compiler() { command -v cc >/dev/null || apt_install gcc libc6-dev; }

# A real redis-server, in $REDIS_SERVER. Debian's package `redis-server` would start a service, `redis-tools` does not,
# and its redis-check-rdb is the same program, which is a server when it is started under the name redis-server.
ensure_redis() {
  local tools="$ROOT/tests/.tools"
  command -v redis-cli >/dev/null || apt_install redis-tools
  if [ -z "${REDIS_SERVER:-}" ]; then
    REDIS_SERVER=$(command -v redis-server || true)
  fi
  if [ -z "$REDIS_SERVER" ]; then
    command -v redis-check-rdb >/dev/null || apt_install redis-tools
    mkdir -p "$tools"
    ln -sfn "$(command -v redis-check-rdb)" "$tools/redis-server"
    REDIS_SERVER="$tools/redis-server"
  fi
  export REDIS_SERVER
  "$REDIS_SERVER" --version | grep -q 'server v=' || die "$REDIS_SERVER is not a Redis server"
}

# The headers of hiredis, the C client, which a test compiles a program with.
ensure_hiredis() { [ -e /usr/include/hiredis/hiredis.h ] || apt_install libhiredis-dev; }

# Counts instructions: `callgrind` runs the benches of the pure core.
ensure_valgrind() { command -v valgrind >/dev/null || apt_install valgrind; }

# A virtual environment with the pinned redis-py, Celery and RQ; made anew when the pins change or its Python is gone.
ensure_python() {
  local environment="$ROOT/.venv" pins="$ROOT/tests/python/requirements.txt"
  cmp -s "$pins" "$environment/installed.txt" && "$environment/bin/python" -c 'import celery, redis, rq' 2>/dev/null && return
  python3 -c 'import ensurepip, venv' 2>/dev/null || apt_install python3 python3-venv
  say "installing redis-py, Celery and RQ into .venv"
  quietly python3 -m venv --clear "$environment"
  quietly "$environment/bin/python" -m pip --disable-pip-version-check install --quiet --require-hashes \
    --only-binary :all: --requirement "$pins"
  cp "$pins" "$environment/installed.txt"
}
