#!/usr/bin/env bash
# Shows a failover on this machine: installs what is missing, builds Handover, runs `handover demo`.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$ROOT"
# shellcheck source=scripts/setup.sh
. scripts/setup.sh

ensure_c_compiler
ensure_cargo
ensure_redis

target="${CARGO_TARGET_DIR:-$ROOT/target}"
[ -x "$target/release/handover" ] || say "building Handover with optimisation; this takes some minutes the first time"
cargo build --locked --release --bin handover
exec "$target/release/handover" demo "$@"
