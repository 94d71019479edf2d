#!/usr/bin/env bash
# Runs every test on a Debian machine, after installing what is missing (as root, or with sudo).
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$ROOT"
# shellcheck source=scripts/setup.sh
. scripts/setup.sh

ensure_c_compiler
ensure_cargo
ensure_cargo_components
ensure_redis
ensure_hiredis
ensure_valgrind
ensure_python

cargo fmt --all --check
cargo clippy --locked --all-targets -- -D warnings
cargo clippy --locked --package handover-instructions -- -D warnings
cargo test --locked --doc
# What a command costs in the pure core, against the stored counts.
cargo run --locked --quiet --profile instructions --package handover-instructions
# Last, so that the runner's own summary is what the output ends with.
if cargo nextest --version >/dev/null 2>&1; then
  # Most tests wait most of the time.
  cargo nextest run --locked --test-threads "$(($(nproc) * 2))"
else
  cargo test --locked --lib --bins --tests
fi
