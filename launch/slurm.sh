#!/usr/bin/env bash
# Queues a run on several GPU nodes of a SLURM cluster: checks the variables, then calls sbatch with launch/slurm_job.sh.
#
#   NODES=2 GPUS=8 TIME=24:00:00 WORKDIR=/shared/runs/faces DATA_DIR=/shared/tfds \
#     bash launch/slurm.sh -- --config=configs/wflw.py
#
# Run it on a login node, from a checkout that every node sees, with lmkd installed (pip install -e '.[cuda]' in .venv). What
# follows -- are flags of `python -m lmkd.main`; --coordinator=auto, --workdir and --data_dir are added. --dry_run prints the
# command and, as a comment, what the job will run; --help prints this.
#
# Variables that have no default:
#   NODES         how many, such as 2; whole ones are asked for (--exclusive)
#   GPUS          of each node, all of them, such as 8
#   TIME          the longest that one sitting may take, such as 24:00:00; the run goes on in the next
#   WORKDIR       the run's folder, on a file system that the nodes share, such as /shared/runs/faces
#   DATA_DIR      prepared data sets, for every node to read, such as /shared/tfds
# and those that have one:
#   PROCESS_PER   gpu: a process for each GPU; node: one process a node, which drives all of its GPUs (gpu)
#   CPUS          CPU cores for each GPU (8): the input pipeline lives there
#   NAME          of the job (lmkd)
#   PARTITION, ACCOUNT, QOS   of the cluster (its own defaults)
#   LOGS          logs, one of the job and one of each process (runs/slurm)
#   PYTHON        that has lmkd (.venv/bin/python in the root)
#   GRACE         seconds before the end of TIME at which the run is told to save (180)
#   PATIENCE      seconds that the last processes may stay once the first has left (600)
#   MAX_RESTARTS  how often the job is queued again (20)
#   SBATCH_FLAGS  more flags of sbatch, split at blanks, such as "--constraint=h100 --mail-type=FAIL"
#
# One process a GPU is what JAX finds by itself under SLURM: process i of a node takes GPU i. It decodes pictures in more
# processes, and one that dies takes one GPU with it. One process a node has one input pipeline and one compilation for all its
# GPUs; take it where the nodes have few cores or little memory. The global batch, and so the result, is the same.
#
# Restarts: GRACE seconds before the end of TIME, and when SLURM preempts the job, every process gets SIGTERM, saves and leaves
# with 143. The job then goes back into the queue under its number: by SLURM after a preemption or a dead node (--requeue), by
# itself after 143 and after 75 (a peer died or hung) or another death. Not after 0, 2 (something given is wrong), 130, nor
# scancel. Logs are appended.
set -euo pipefail
here=$(dirname -- "${BASH_SOURCE[0]}")
# shellcheck source-path=SCRIPTDIR source=setup.sh
source "$here/setup.sh"
# shellcheck source-path=SCRIPTDIR source=variables.sh
source "$here/variables.sh"

lmkd_read "$@"
lmkd_at_most 0
set -- ${lmkd_rest[@]+"${lmkd_rest[@]}"}

PROCESS_PER=${PROCESS_PER:-gpu} CPUS=${CPUS:-8} NAME=${NAME:-lmkd} LOGS=${LOGS:-runs/slurm}
GRACE=${GRACE:-180} PATIENCE=${PATIENCE:-600} MAX_RESTARTS=${MAX_RESTARTS:-20}
lmkd_need_whole NODES "how many nodes" 2
lmkd_need_whole GPUS "how many GPUs a node has" 8
lmkd_need TIME "the longest that one sitting may take" 24:00:00
lmkd_need WORKDIR "the run's folder, shared by the nodes" /shared/runs/faces
lmkd_need DATA_DIR "prepared data sets, shared by the nodes" /shared/tfds
lmkd_folder WORKDIR
lmkd_folder DATA_DIR
lmkd_choice PROCESS_PER gpu node
lmkd_whole CPUS 1
lmkd_whole GRACE 0
lmkd_whole PATIENCE 1
lmkd_whole MAX_RESTARTS 0
lmkd_run_flags "$@"
lmkd_checked
cd -- "$LMKD_ROOT"
case $LOGS in /*) ;; *) LOGS=$LMKD_ROOT/$LOGS ;; esac

# shellcheck disable=SC2153 # GPUS is no misspelling of CPUS
if [ "$PROCESS_PER" = gpu ]; then tasks=$GPUS cpus=$CPUS; else tasks=1 cpus=$((CPUS * GPUS)); fi
flags=("--job-name=$NAME" "--chdir=$LMKD_ROOT" "--nodes=$NODES" "--ntasks-per-node=$tasks" "--gpus-per-node=$GPUS"
  "--cpus-per-task=$cpus" --exclusive --mem=0 "--time=$TIME" --requeue "--signal=TERM@$GRACE" --open-mode=append
  "--output=$LOGS/%x_%j.log")
[ -z "${PARTITION:-}" ] || flags+=("--partition=$PARTITION")
[ -z "${ACCOUNT:-}" ] || flags+=("--account=$ACCOUNT")
[ -z "${QOS:-}" ] || flags+=("--qos=$QOS")
# shellcheck disable=SC2206 # split at blanks, as announced
flags+=(${SBATCH_FLAGS:-})

job=("$LMKD_ROOT/launch/slurm_job.sh" "--process_per=$PROCESS_PER" "--gpus=$GPUS" "--logs=$LOGS" "--patience=$PATIENCE"
  "--max_restarts=$MAX_RESTARTS" -- "$(lmkd_python)" -m lmkd.main --coordinator=auto "--workdir=$WORKDIR" "--data_dir=$DATA_DIR" "$@")
lmkd_run mkdir -p "$LOGS"
lmkd_run sbatch "${flags[@]}" "${job[@]}"
if [ -n "$LMKD_DRY_RUN" ]; then
  lmkd_note "which runs, on the first of the nodes:"
  SLURM_CPUS_PER_TASK=$cpus bash "${job[0]}" --dry_run "${job[@]:1}" | sed 's/^/#   /'
fi
