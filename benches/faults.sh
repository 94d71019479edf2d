#!/usr/bin/env bash
# Plays every fault against real servers, in a network namespace of its own where packets can be dropped.
#
#   benches/faults.sh [--runs 20] [--many 100] [--presets default,fast] [--faults kill,loss-20]
#
# Needs root, iproute2 and nftables; installs the latter two on Debian. Where namespaces are not allowed, it says so and
# plays the faults that need none. HANDOVER_PROGRAM=<file> tests that one instead of a release build of its own;
# FAULTS_PROGRAM=<file> is the benchmark itself, built already.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$ROOT"
NAMESPACE="handover-faults-$$"

if [ "$(id -u)" = 0 ] && ! { command -v ip && command -v nft; } >/dev/null 2>&1; then
  if command -v apt-get >/dev/null 2>&1; then
    apt-get update -qq && apt-get install -y -qq iproute2 nftables >/dev/null
  fi
fi

if [ -z "${HANDOVER_PROGRAM:-}" ]; then
  cargo build --locked --release --bin handover
  HANDOVER_PROGRAM=${CARGO_TARGET_DIR:-target}/release/handover
fi
HANDOVER_PROGRAM=$(realpath "$HANDOVER_PROGRAM")
export HANDOVER_PROGRAM

if [ -z "${FAULTS_PROGRAM:-}" ]; then
  # The benchmark only waits and counts: it need not be optimised.
  FAULTS_PROGRAM=$(cargo test --locked --no-run --bench faults --message-format=json 2>/dev/null |
    sed -n 's/.*"executable":"\([^"]*faults-[^"]*\)".*/\1/p' | tail -n 1)
fi

if ! ip netns add "$NAMESPACE" 2>/dev/null; then
  echo "no network namespace: this needs root, and a kernel or container that allows them (ip netns add failed)" >&2
  exec "$FAULTS_PROGRAM" "$@"
fi
trap 'ip netns delete "$NAMESPACE"' EXIT
ip -n "$NAMESPACE" link set lo up
if ! ip netns exec "$NAMESPACE" nft list ruleset >/dev/null 2>&1; then
  echo "no nftables here: faults that need dropped packets are left out" >&2
  ip netns exec "$NAMESPACE" "$FAULTS_PROGRAM" "$@"
  exit
fi
HANDOVER_FAULTS_NAMESPACE=1 ip netns exec "$NAMESPACE" "$FAULTS_PROGRAM" "$@"
