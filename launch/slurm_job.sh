#!/usr/bin/env bash
# The batch script that slurm.sh queues. SLURM copies it away and runs it on the job's first node, in the checkout.
#
#   sbatch ... launch/slurm_job.sh [--flag ...] -- COMMAND
#
#   --process_per=gpu|node   what sbatch's --ntasks-per-node was chosen for
#   --gpus=G                 GPUs of a node
#   --logs=DIR               one log a process, DIR/NAME_JOB_PROCESS.log
#   --patience=SECONDS       how long the last processes may stay once the first has left
#   --max_restarts=R         how often the job goes back into the queue
#   --dry_run                prints the step and runs nothing
#
# srun starts COMMAND once a task; JAX reads process, count and coordinator from SLURM's variables (--coordinator=auto).
set -uo pipefail

process_per=gpu gpus=1 logs=. patience=600 max_restarts=20 dry_run=""
while [ $# -gt 0 ]; do
  case $1 in
    --) shift && break ;;
    --process_per=*) process_per=${1#*=} ;;
    --gpus=*) gpus=${1#*=} ;;
    --logs=*) logs=${1#*=} ;;
    --patience=*) patience=${1#*=} ;;
    --max_restarts=*) max_restarts=${1#*=} ;;
    --dry_run) dry_run=yes ;;
    *) echo "error: unknown flag $1; slurm.sh --help explains" >&2 && exit 2 ;;
  esac
  shift
done
[ $# -gt 0 ] || { echo "error: nothing to run after --" >&2 && exit 2; }

# JAX takes one GPU a process under SLURM, that of the process's number on its node, unless it is told of others.
if [ "$process_per" = node ]; then
  ids=0
  for ((i = 1; i < gpus; i++)); do ids+=,$i; done
  set -- env "JAX_LOCAL_DEVICE_IDS=$ids" "$@"
fi

# srun's status is the highest of all tasks: 2 (something given is wrong) would hide behind the 75 of the peers that it left, and
# becomes 200. `trap :` keeps the wrapper alive through the SIGTERM that its program answers by saving.
# shellcheck disable=SC2016 # expanded by the task
task='trap : TERM INT; "$@"; status=$?; [ $status -ne 2 ] || status=200; exit $status'
# --wait, not --kill-on-bad-exit: the first to leave with 143 must not cut short those that still save.
step=(srun --kill-on-bad-exit=0 "--wait=$patience" "--cpus-per-task=${SLURM_CPUS_PER_TASK:-1}" --open-mode=append
  "--output=$logs/%x_%j_%t.log" bash -c "$task" lmkd "$@")
if [ -n "$dry_run" ]; then
  printf '%q ' "${step[@]}"
  echo
  exit
fi

trap : TERM INT
"${step[@]}"
status=$?
[ "$status" -ne 200 ] || status=2
echo "== the step left with status $status"
case $status in 0 | 2 | 130) exit "$status" ;; esac

# A job that is being cancelled or that SLURM requeues itself is no longer RUNNING.
if [ "$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T)" != RUNNING ]; then
  echo "== SLURM ends this job; it is not queued again from here"
elif [ "${SLURM_RESTART_COUNT:-0}" -ge "$max_restarts" ]; then
  echo "== given up after $max_restarts restarts"
else
  echo "== back into the queue (restart $((${SLURM_RESTART_COUNT:-0} + 1)) of $max_restarts)"
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
