#!/usr/bin/env bash
# One run on one worker of a TPU pod, apart from the connection that started it, and the folders it needs. tpu_pod.sh calls it
# over SSH.
#
#   bash launch/tpu_worker.sh start -- COMMAND   starts COMMAND in the background, unless one is running
#   bash launch/tpu_worker.sh status             prints "lmkd-worker HOST STATE"; STATE is none, running or an exit status
#   bash launch/tpu_worker.sh stop               SIGTERM: the run saves and leaves; its status is 130, stopped by hand
#   bash launch/tpu_worker.sh log [LINES]        the end of its output (20)
#   bash launch/tpu_worker.sh mount BUCKET DIR   mounts a bucket with gcsfuse, which it installs, unless DIR is a mount
#   bash launch/tpu_worker.sh localise FROM DIR  copies a folder to this worker's disk, unless DIR is there
#
# A run that hung on its SSH connection would die with it, and gcloud tries a broken connection again: it would start a
# second run beside the first. A lock, which the run holds as long as it lives, keeps this one start to one run.
#
# Variables: LMKD_WORKER_DIR, where lock, log and status lie (~/lmkd_run). Linux only: flock, setsid.
set -euo pipefail
dir=${LMKD_WORKER_DIR:-$HOME/lmkd_run}

runs() { ! flock -n "$dir/lock" true; }

# Holds the lock on descriptor 9, which the run itself does not inherit: what it leaves behind must not look like a run.
supervise() {
  local status=0 pid
  printf '== %s: %s\n' "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$*"
  "$@" 9>&- &
  pid=$!
  echo "$pid" >"$dir/pid"
  wait "$pid" || status=$?
  # A preempted machine sends SIGTERM too. Whoever watches the run starts that one again, but not one that was told to stop.
  [ "$status" -ne 143 ] || [ ! -e "$dir/stopped" ] || status=130
  echo "$status" >"$dir/status.new"
  mv "$dir/status.new" "$dir/status"
}

# No metadata cache: workers look for files that others have just made. Checkpoints take their name by renaming a folder, which
# gcsfuse refuses by default, and folders that gcloud has copied are implicit.
mount_bucket() {
  ! mountpoint -q "$2" || return 0
  command -v gcsfuse >/dev/null || {
    echo "error: gcsfuse is not on $(uname -n): take an image that has it, or install it on each worker as" >&2
    echo "       https://cloud.google.com/storage/docs/cloud-storage-fuse/install says" >&2
    exit 2
  }
  sudo mkdir -p "$2"
  sudo chown "$(id -u):$(id -g)" "$2"
  gcsfuse --implicit-dirs --rename-dir-limit=200000 --metadata-cache-ttl-secs=0 --metadata-cache-negative-ttl-secs=0 "$1" "$2"
}

# The name comes last, so that half a copy is none; a copy that stands may be in use and is left as it is.
localise() {
  [ ! -e "$2" ] || return 0
  rm -rf "$2.part"
  mkdir -p "$(dirname "$2")"
  cp -R "$1" "$2.part"
  mv "$2.part" "$2"
}

mkdir -p "$dir"
case ${1:-} in
  start)
    shift
    [ "${1:-}" = -- ] && shift
    [ $# -gt 0 ] || { echo "error: start -- COMMAND: which command?" >&2 && exit 2; }
    exec 9>>"$dir/lock"
    if ! flock -w 0.3 9; then # not -n: `status` takes the lock for a moment
      echo "a run is going on already: nothing was started"
      exit
    fi
    rm -f "$dir/stopped"
    echo 143 >"$dir/status" # what stands here if the machine is taken away before the run leaves
    setsid bash "$0" supervise "$@" </dev/null >>"$dir/log" 2>&1 &
    ;;
  supervise)
    shift
    supervise "$@"
    ;;
  status)
    if runs; then state=running; else state=$(cat "$dir/status" 2>/dev/null || echo none); fi
    printf 'lmkd-worker %s %s\n' "$(uname -n)" "$state"
    ;;
  stop)
    if runs; then touch "$dir/stopped" && kill -TERM "$(cat "$dir/pid")"; else echo "nothing runs"; fi
    ;;
  log) tail -n "${2:-20}" "$dir/log" ;;
  mount) mount_bucket "$2" "$3" ;;
  localise) localise "$2" "$3" ;;
  --help | -h) awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "$0" ;;
  *)
    echo "error: ${1:-nothing} is no subcommand; start, status, stop, log, mount and localise are. --help explains." >&2
    exit 2
    ;;
esac
