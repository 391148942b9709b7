#!/usr/bin/env bash
# The container image, with docker, podman or buildah, whichever works here.
#
#   scripts/image.sh build           build it, as vector-memory:VERSION
#   scripts/image.sh run [OPTION..]  run it; the options are the engine's, such as -v "$PWD/volume:/runpod-volume"
#   scripts/image.sh engine | tag    print what would be used
set -euo pipefail
cd "$(dirname "$0")/.."

tag() {
  echo "vector-memory:$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)"
}

# A docker without its daemon is there and does not work.
engine() {
  local candidate
  for candidate in docker podman buildah; do
    if "$candidate" info >/dev/null 2>&1; then
      echo "$candidate"
      return
    fi
  done
  echo "Neither docker nor podman nor buildah works here." >&2
  return 1
}

# Where pip finds packages on this machine, as a pip.conf. Variables stand before files and count first.
pip_settings() {
  echo "[global]"
  { python3 -m pip config list 2>/dev/null || true; } |
    sed -nE "s/^(:env:|global|user|site)\.(index-url|extra-index-url|find-links|no-index|trusted-host|cert|proxy)='(.*)'$/\2 = \3/p" |
    awk '!seen[$1]++'
}

# The folders and files that those settings name; a local index links to files beside it.
pip_paths() {
  local word
  for word in $(pip_settings); do
    case "$word" in
      file:///*) dirname "${word#file://}" ;;
      /*) echo "$word" ;;
    esac
  done | sort -u
}

build() {
  local engine path mounts=()
  engine=$(engine)
  settings=$(mktemp)
  trap 'rm -f "$settings"' EXIT
  pip_settings >"$settings"
  if [ "$engine" != docker ]; then # docker mounts no folder while it builds
    for path in $(pip_paths); do
      mounts+=(--volume "$path:$path:ro")
    done
  fi
  "$engine" build --platform linux/amd64 --secret "id=pip,src=$settings" ${mounts[@]+"${mounts[@]}"} --tag "$(tag)" .
}

case "${1:-}" in
  build | engine | tag) "$1" ;;
  run)
    shift
    engine=$(engine)
    [ "$engine" != buildah ] || { echo "buildah builds images and does not run them; docker and podman do." >&2; exit 1; }
    exec "$engine" run "$@" "$(tag)"
    ;;
  *)
    sed -n '2,6s/^# \{0,1\}//p' "$0"
    exit 1
    ;;
esac
