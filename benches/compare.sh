#!/usr/bin/env bash
# The standard comparison on a Debian machine: installs what building and Redis need, gets the other proxies below
# target/, measures, prints the tables, and draws the plots. Options are those of benches/compare/main.rs.
#
#   benches/compare.sh [--quick] [--rows throughput,latency …] [--rounds 7] [--seconds 0.5]
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$ROOT"
# shellcheck source=scripts/setup.sh
. scripts/setup.sh

ensure_c_compiler
ensure_cargo
ensure_redis
python3 -c 'import ensurepip, venv' 2>/dev/null || apt_install python3 python3-venv

exec cargo bench --locked --bench compare -- "$@"
