#!/usr/bin/env bash
# Runs N processes with D CPU devices each on this machine, as one program: the code path of a pod, without a pod.
#
#   bash launch/local_pod.sh N [D] [--flag ...] -- ARGS
#
#   bash launch/local_pod.sh 2 -- --config=configs/quickstart.py:smoke --workdir=runs/pod
#   bash launch/local_pod.sh 2 2 --dry_run -- --config=configs/quickstart.py:smoke
#   bash launch/local_pod.sh 2 -- python my_program.py
#
# ARGS are flags of `python -m lmkd.main`. Where the first of them is no flag, ARGS are a whole command instead. Either
# gets --coordinator=localhost:PORT --processes=N --process=I at its end. Paths are relative to the repository's root.
#
#   N                    processes
#   D                    CPU devices of each (1)
#   --logs=DIR           one log a process, DIR/process_I.log; a second run is appended (runs/local_pod)
#   --port=P             where process 0 listens (a free one)
#   --patience=SECONDS   one process has failed: how long the others may find out by themselves before they get SIGTERM (0)
#   --grace=SECONDS      how long a process may take to save and leave after SIGTERM before it is killed (60)
#   --dry_run            prints the commands and runs nothing
#   --help               prints this
#
# Variables: PYTHON, the interpreter (.venv/bin/python in the root, or else python3); XLA_FLAGS are kept and added to.
#
# Ctrl-C and SIGTERM go to every process, as often as they come. The exit status is that of the first process that
# failed, 0 where none did: 143 and 130 stopped, state saved; 75 a peer died or hung; 2 something given is wrong; 128 + n
# killed by signal n. After 143, 130 and 75 the same command goes on, with this or another number of processes.
set -euo pipefail
here=$(dirname -- "${BASH_SOURCE[0]}")
# shellcheck source-path=SCRIPTDIR source=setup.sh
source "$here/setup.sh"
# shellcheck source-path=SCRIPTDIR source=variables.sh
source "$here/variables.sh"

N="" D="" logs=runs/local_pod port="" patience=0 grace=60
while [ $# -gt 0 ]; do
  case $1 in
    --) break ;;
    --help | -h) lmkd_help "$0" && exit ;;
    --dry_run) LMKD_DRY_RUN=yes ;;
    --logs=*) logs=${1#*=} ;;
    --port=*) port=${1#*=} ;;
    --patience=*) patience=${1#*=} ;;
    --grace=*) grace=${1#*=} ;;
    -*) lmkd_usage "unknown flag $1; flags of the run come after --" ;;
    *)
      if [ -z "$N" ]; then
        N=$1
      elif [ -z "$D" ]; then
        D=$1
      else
        lmkd_usage "unexpected $1; what is to be run comes after --"
      fi
      ;;
  esac
  shift
done
if [ "${1:-}" = -- ]; then shift; fi
D=${D:-1}

if [ -z "$N" ]; then lmkd_wrong "N, the number of processes, is missing: 2, for one"; else lmkd_whole N 1; fi
lmkd_whole D 1
lmkd_whole patience 0
lmkd_whole grace 0
[ -z "$port" ] || lmkd_whole port 1
[ $# -gt 0 ] || lmkd_wrong "nothing to run: it comes after --, such as -- --config=configs/quickstart.py:smoke"
lmkd_reserved "coordinator processes process" "$@"
lmkd_checked

cd -- "$LMKD_ROOT"
python=$(lmkd_python)
case $1 in -*) set -- "$python" -m lmkd.main "$@" ;; esac
if [ -z "$port" ]; then
  port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("localhost", 0)); print(s.getsockname()[1])') \
    || lmkd_die "$python, which finds a free port, does not run." "Name another one, PYTHON=/path/to/python, or a port, --port=8476."
fi
xla="${XLA_FLAGS:+$XLA_FLAGS }--xla_force_host_platform_device_count=$D"
set -- env JAX_PLATFORMS=cpu "XLA_FLAGS=$xla" "$@" "--coordinator=localhost:$port" "--processes=$N"

if [ -n "$LMKD_DRY_RUN" ]; then
  lmkd_run cd "$LMKD_ROOT"
  lmkd_run mkdir -p "$logs"
  lmkd_note "each in a process group of its own"
  for ((i = 0; i < N; i++)); do
    printf '%s </dev/null >>%s 2>&1 &\n' "$(lmkd_quoted "$@" "--process=$i")" "$(lmkd_quoted "$logs/process_$i.log")"
  done
  echo wait
  exit
fi

pids=() statuses=()
first_failure=0 first_failed=""

# Runs a command as the leader of a group of its own, which Ctrl-C in a terminal then reaches through this script alone, and
# with SIGINT as programs expect it: bash has its background commands ignore it.
in_own_group='import os, signal, sys
os.setpgid(0, 0)
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execvp(sys.argv[1], sys.argv[1:])'

tell_all() {
  local i
  for ((i = 0; i < ${#pids[@]}; i++)); do
    [ -n "${statuses[i]}" ] || kill "-$1" "${pids[i]}" 2>/dev/null || true
  done
}

# With what they started: data workers belong to the group of their process, and outlive it where it was killed.
kill_all() {
  local i
  for ((i = 0; i < ${#pids[@]}; i++)); do
    kill -KILL -- "-${pids[i]}" 2>/dev/null || [ -n "${statuses[i]}" ] || kill -KILL "${pids[i]}" 2>/dev/null || true
  done
}

# Takes in the statuses of those that have left; true as long as somebody runs.
somebody_runs() {
  local i running=1
  for ((i = 0; i < ${#pids[@]}; i++)); do
    [ -z "${statuses[i]}" ] || continue
    if kill -0 "${pids[i]}" 2>/dev/null; then
      running=0
      continue
    fi
    statuses[i]=0
    wait "${pids[i]}" 2>/dev/null || statuses[i]=$?
    lmkd_say "process $i left with status ${statuses[i]}"
    if [ "${statuses[i]}" -ne 0 ] && [ -z "$first_failed" ]; then
      first_failed=$i first_failure=${statuses[i]}
    fi
  done
  return "$running"
}

mkdir -p "$logs"
trap 'tell_all INT' INT
trap 'tell_all TERM' TERM
trap kill_all EXIT
for ((i = 0; i < N; i++)); do
  log=$logs/process_$i.log
  printf '== %s: %s\n' "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$(lmkd_quoted "$@" "--process=$i")" >>"$log"
  statuses[i]=""
  "$python" -ISc "$in_own_group" "$@" "--process=$i" </dev/null >>"$log" 2>&1 &
  pids[i]=$!
done
lmkd_say "$N processes, CPU devices of each: $D; tail -f $(lmkd_quoted "$logs/process_0.log") follows the first"

deadline="" told=""
while somebody_runs; do
  if [ -n "$first_failed" ] && [ -z "$deadline" ]; then
    deadline=$((SECONDS + patience))
  fi
  if [ -n "$deadline" ] && [ "$SECONDS" -ge "$deadline" ]; then
    if [ -z "$told" ]; then
      lmkd_say "process $first_failed failed: the others are stopped"
      tell_all TERM
      told=yes deadline=$((SECONDS + grace))
    else
      lmkd_say "still there after $grace s: killed"
      kill_all
      deadline=$((SECONDS + 1))
    fi
  fi
  sleep 0.1 || true
done

if [ "$first_failure" -ne 0 ]; then
  {
    printf 'process %s left first, with status %s. The end of %s:\n' "$first_failed" "$first_failure" "$logs/process_$first_failed.log"
    tail -n 20 -- "$logs/process_$first_failed.log" | sed 's/^/  | /'
  } >&2
fi
exit "$first_failure"
