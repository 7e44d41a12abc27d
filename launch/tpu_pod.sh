#!/usr/bin/env bash
# A TPU VM pod from the first command to the last: create, copy, install, run on every worker, collect, delete.
#
#   NAME=faces PROJECT=my-project ZONE=us-central2-b ACCELERATOR=v4-32 RUNTIME=tpu-ubuntu2204-base \
#     BUCKET=my-bucket WORKDIR=/mnt/lmkd/runs/faces DATA_DIR=/mnt/lmkd/tfds \
#     bash launch/tpu_pod.sh all -- --config=configs/wflw.py
#
#   create     asks for the pod            run -- FLAGS  starts the run on every worker, waits for its end, starts it again
#   wait       until it is there           status, log   of every worker; the end of their logs
#   copy       the commit to every worker  stop          the run saves and leaves, and is not started again
#   install    lmkd[tpu] and the bucket    collect       workdir and logs come here
#   delete     the pod and its costs end   all -- FLAGS  everything from create to delete, a new pod for one that was taken
#
# FLAGS are flags of `python -m lmkd.main`; --coordinator=auto, --workdir and --data_dir are added. --dry_run prints the
# commands and runs nothing; --help prints this.
#
# Variables that have no default:
#   NAME          the pod's name, such as faces
#   PROJECT       of Google Cloud, such as my-project
#   ZONE          such as us-central2-b
#   ACCELERATOR   type and size, such as v4-32 (gcloud compute tpus accelerator-types list --zone=ZONE)
#   RUNTIME       image of the VMs, such as tpu-ubuntu2204-base (gcloud compute tpus versions list --zone=ZONE)
#   WORKDIR       the run's folder, the same for every worker: under MOUNT, or on a share that is mounted already
#   DATA_DIR      prepared data sets, for every worker to read: under MOUNT, or on a share that is mounted already
# and those that have one:
#   BUCKET        the name of a bucket that is mounted on every worker with gcsfuse, such as my-bucket (none)
#   MOUNT         where (/mnt/lmkd)
#   LOCAL_DATA    a folder on each worker's own disk, such as /tmp/tfds: DATA_DIR is copied there once and read there (none)
#   QUEUED        yes: a queued resource, which waits for a free pod (yes); no: now or never
#   CAPACITY      on_demand, spot, reserved or preemptible (spot); preemptible only with QUEUED=no
#   VALID_UNTIL   a queued resource that has not come by then never comes, such as 6h (no end)
#   CREATE_FLAGS  more flags of gcloud's create, split at blanks, such as "--network=mine --service-account=me@my-project"
#   SSH_FLAGS     more flags of gcloud's ssh and scp, such as --internal-ip
#   REVISION      the commit that is copied (HEAD)
#   RESULTS       where collect writes (runs/NAME)
#   KEEP          yes: `all` leaves the pod standing at its end (no)
#   MAX_RESTARTS  how often a run is started again, on the same pod or a new one (20)
#   POLL_SECONDS  between two looks at the run or the queue (60)
#
# Restarts: after 143 (SIGTERM, saved), 75 (a peer died or hung) and other deaths the run starts again, and goes on from its
# last checkpoint. After 2 (something given is wrong) and 130 (stopped by hand) it does not. `all` deletes a pod that was
# preempted, asks for another and goes on there. A run lives on the workers, not on this connection: after Ctrl-C here it
# goes on (and costs); `run` or `all` with the same variables finds it again, `stop` and `delete` end it.
#
# gcloud must be logged in; for several workers: ssh-add ~/.ssh/google_compute_engine. The exit status is the run's.
set -euo pipefail
here=$(dirname -- "${BASH_SOURCE[0]}")
# shellcheck source-path=SCRIPTDIR source=setup.sh
source "$here/setup.sh"
# shellcheck source-path=SCRIPTDIR source=variables.sh
source "$here/variables.sh"

lmkd_read "$@"
lmkd_subcommand create wait copy install run status log stop collect delete all
lmkd_at_most 1
set -- ${lmkd_rest[@]+"${lmkd_rest[@]}"}

QUEUED=${QUEUED:-yes} CAPACITY=${CAPACITY:-spot} REVISION=${REVISION:-HEAD} RESULTS=${RESULTS:-runs/${NAME:-}}
MOUNT=${MOUNT:-/mnt/lmkd} KEEP=${KEEP:-no} MAX_RESTARTS=${MAX_RESTARTS:-20} POLL_SECONDS=${POLL_SECONDS:-60}

lmkd_need NAME "the pod's name" faces
lmkd_need PROJECT "the project of Google Cloud" my-project
lmkd_need ZONE "the zone" us-central2-b
case $subcommand in create | all)
  lmkd_need ACCELERATOR "type and size" v4-32
  lmkd_need RUNTIME "image of the VMs" tpu-ubuntu2204-base
  lmkd_choice CAPACITY on_demand spot reserved preemptible
  [ "$QUEUED $CAPACITY" != "yes preemptible" ] || lmkd_wrong "CAPACITY=preemptible takes QUEUED=no; queued resources come as spot"
  ;;
esac
case $subcommand in run | collect | all)
  lmkd_need WORKDIR "the run's folder, shared by the workers" "$MOUNT/runs/faces"
  lmkd_folder WORKDIR
  case ${BUCKET:+${WORKDIR:-}} in
    "" | *://* | "$MOUNT"/*) ;;
    *) lmkd_wrong "WORKDIR=$(lmkd_quoted "$WORKDIR"): a folder under MOUNT=$MOUNT, where BUCKET is, is needed" ;;
  esac
  ;;
esac
case ${BUCKET:-} in */*) lmkd_wrong "BUCKET=$(lmkd_quoted "$BUCKET"): a name without gs:// and folders is needed, such as my-bucket" ;; esac
case ${LOCAL_DATA:-} in "" | /*) ;; *) lmkd_wrong "LOCAL_DATA=$(lmkd_quoted "$LOCAL_DATA"): a path from / on is needed" ;; esac
if [ -n "${LOCAL_DATA:-}" ] || [ "$subcommand" = run ] || [ "$subcommand" = all ]; then
  lmkd_need DATA_DIR "prepared data sets, shared by the workers" "$MOUNT/tfds"
  lmkd_folder DATA_DIR
fi
case $subcommand in run | all)
  lmkd_run_flags "$@"
  ;;
esac
lmkd_choice QUEUED yes no
lmkd_choice KEEP yes no
lmkd_whole MAX_RESTARTS 0
lmkd_whole POLL_SECONDS 0
lmkd_checked
cd -- "$LMKD_ROOT"

where=("--zone=$ZONE" "--project=$PROJECT")
# shellcheck disable=SC2206 # split at blanks, as announced
create_flags=(${CREATE_FLAGS:-}) ssh_flags=(${SSH_FLAGS:-})

# Runs one command line on every worker.
on_all() {
  lmkd_run gcloud compute tpus tpu-vm ssh "$NAME" "${where[@]}" --worker=all ${ssh_flags[@]+"${ssh_flags[@]}"} "--command=$1"
}

# Prints the state of a `gcloud compute tpus $1`: "" where there is none, UNKNOWN where gcloud could not say.
state_of() {
  local said
  if said=$(gcloud compute tpus "$1" describe "$NAME" "${where[@]}" "--format=value($2)" 2>&1); then
    tail -n 1 <<<"$said"
  else
    case $said in *NOT_FOUND* | *"not found"*) ;; *) echo UNKNOWN && printf '%s\n' "$said" >&2 ;; esac
  fi
}

# READY, or what the pod is on its way to. A queued resource stays ACTIVE for a while after its pod was taken, so that the pod
# is asked too.
pod_state() {
  local state=ACTIVE
  [ "$QUEUED" = no ] || state=$(state_of queued-resources state.state)
  [ "$state" != ACTIVE ] || state=$(state_of tpu-vm state)
  printf '%s' "$state"
}

# Only what gcloud says for certain counts as gone: a pod is deleted and asked for again on this word.
is_gone() { case $1 in "" | FAILED | SUSPENDING | SUSPENDED | PREEMPTED | TERMINATED | DELETING) ;; *) return 1 ;; esac; }

create() {
  local flags=("--accelerator-type=$ACCELERATOR")
  case $CAPACITY in spot | reserved | preemptible) flags+=("--$CAPACITY") ;; esac
  if [ "$QUEUED" = yes ]; then
    flags+=("--runtime-version=$RUNTIME" "--node-id=$NAME")
    [ -z "${VALID_UNTIL:-}" ] || flags+=("--valid-until-duration=$VALID_UNTIL")
    lmkd_run gcloud compute tpus queued-resources create "$NAME" "${where[@]}" "${flags[@]}" ${create_flags[@]+"${create_flags[@]}"}
  else
    flags+=("--version=$RUNTIME")
    lmkd_run gcloud compute tpus tpu-vm create "$NAME" "${where[@]}" "${flags[@]}" ${create_flags[@]+"${create_flags[@]}"}
  fi
}

wait_for_pod() {
  local state said="-" silent=0
  if [ -n "$LMKD_DRY_RUN" ]; then
    lmkd_note "every $POLL_SECONDS s, until the pod is READY:"
    [ "$QUEUED" = no ] || lmkd_run gcloud compute tpus queued-resources describe "$NAME" "${where[@]}" "--format=value(state.state)"
    lmkd_run gcloud compute tpus tpu-vm describe "$NAME" "${where[@]}" "--format=value(state)"
    return
  fi
  while :; do
    state=$(pod_state)
    [ "$state" != READY ] || return 0
    if [ -n "$state" ] && is_gone "$state"; then
      lmkd_say "the pod $NAME is $state: it will not come" && return 1
    fi
    if [ "$state" = UNKNOWN ]; then silent=$((silent + 1)); else silent=0; fi
    [ "$silent" -lt 10 ] || lmkd_die "gcloud does not say what has become of $NAME; its words stand above."
    [ "$state" = "$said" ] || lmkd_say "waiting for $NAME: ${state:-not there yet}"
    said=$state
    sleep "$POLL_SECONDS"
  done
}

copy() {
  local archive=${TMPDIR:-/tmp}/lmkd_$NAME.tar.gz changed
  if [ -z "$LMKD_DRY_RUN" ]; then
    changed=$(git status --porcelain | wc -l)
    [ "$changed" -eq 0 ] || lmkd_say "$((changed)) files are changed and not committed: the pod gets $REVISION, without that"
  fi
  lmkd_run git archive --format=tar.gz --prefix=lmkd/ "--output=$archive" "$REVISION" \
    && lmkd_run gcloud compute tpus tpu-vm scp "$archive" "$NAME:lmkd.tar.gz" "${where[@]}" --worker=all ${ssh_flags[@]+"${ssh_flags[@]}"} \
    && on_all "tar xzf lmkd.tar.gz" \
    && lmkd_run rm "$archive"
}

worker() { printf 'bash lmkd/launch/tpu_worker.sh %s' "$(lmkd_quoted "$@")"; }

# What makes a run's folders be there on a worker, before another command. A worker that was started anew has lost its mounts.
folders() {
  [ -z "${BUCKET:-}" ] || printf '%s && ' "$(worker mount "$BUCKET" "$MOUNT")"
  [ -z "${LOCAL_DATA:-}" ] || printf '%s && ' "$(worker localise "$DATA_DIR" "$LOCAL_DATA")"
}

# uv brings a Python of its own where the image's is too old. The words are the workers' to expand.
# shellcheck disable=SC2016
install() {
  local path='export PATH="$HOME/.local/bin:$PATH"' uv='{ command -v uv >/dev/null || python3 -m pip install --quiet --user uv; }'
  on_all "$(folders)$path && $uv && bash -c 'source lmkd/launch/setup.sh && lmkd_setup tpu'"
}

start() {
  local command
  command=$(lmkd_quoted .venv/bin/python -m lmkd.main --coordinator=auto "--workdir=$WORKDIR" "--data_dir=${LOCAL_DATA:-$DATA_DIR}" "$@")
  on_all "$(folders)cd lmkd && bash launch/tpu_worker.sh start -- $command"
}

worker_states() { on_all "bash lmkd/launch/tpu_worker.sh status"; }

# Waits until no worker runs. Sets outcome to "gone" where the pod is, to 0 where every worker has it, to 2 or 130 where one
# has, or else to the first other status.
outcome=""
wait_for_run() {
  local states state silent=0
  while :; do
    if states=$(worker_states 2>/dev/null); then
      silent=0
      states=$(sed -n 's/^.*lmkd-worker [^ ]* //p' <<<"$states")
      case $states in *running*) ;; *) break ;; esac
    elif is_gone "$(pod_state)"; then
      outcome=gone
      return
    else
      silent=$((silent + 1))
      [ "$silent" -lt 10 ] || lmkd_die "the workers of $NAME do not answer, though the pod may be there." "$0 status says more"
    fi
    sleep "$POLL_SECONDS"
  done
  outcome=0
  for state in $states; do
    case $state in
      2 | 130) outcome=$state && return ;;
      *) [ "$outcome" != 0 ] || outcome=$state ;;
    esac
  done
}

restarts=0
another_try() {
  restarts=$((restarts + 1))
  [ "$restarts" -le "$MAX_RESTARTS" ] || lmkd_die "given up after MAX_RESTARTS=$MAX_RESTARTS restarts; the last: $1."
  lmkd_say "$1: again ($restarts of $MAX_RESTARTS)"
}

# Sets outcome to 0, 2, 130 or gone.
run() {
  if [ -n "$LMKD_DRY_RUN" ]; then
    start "$@"
    lmkd_note "every $POLL_SECONDS s, until no worker runs; after 143, 75 and other deaths it starts again:"
    worker_states
    return
  fi
  while :; do
    if start "$@"; then wait_for_run; elif is_gone "$(pod_state)"; then outcome=gone; else outcome="not started"; fi
    case $outcome in 0 | 2 | 130 | gone) return ;; esac
    another_try "the run left with status $outcome"
    sleep "$POLL_SECONDS"
  done
}

collect() {
  lmkd_run mkdir -p "$RESULTS/logs"
  lmkd_run gcloud compute tpus tpu-vm ssh "$NAME" "${where[@]}" --worker=all ${ssh_flags[@]+"${ssh_flags[@]}"} \
    "--command=cat lmkd_run/log" "--output-directory=$RESULTS/logs" || lmkd_say "the workers' logs did not come"
  if [ -n "${BUCKET:-}" ]; then
    lmkd_run gcloud storage rsync --recursive "gs://$BUCKET${WORKDIR#"$MOUNT"}" "$RESULTS"
  else
    lmkd_run gcloud compute tpus tpu-vm scp "$NAME:$WORKDIR" "$RESULTS" "${where[@]}" --worker=0 --recurse \
      ${ssh_flags[@]+"${ssh_flags[@]}"}
  fi
}

delete() {
  if [ "$QUEUED" = yes ]; then
    lmkd_run gcloud compute tpus queued-resources delete "$NAME" "${where[@]}" --force --quiet
  else
    lmkd_run gcloud compute tpus tpu-vm delete "$NAME" "${where[@]}" --quiet
  fi
}

# Everything, on as many pods as it takes.
all() {
  local state
  [ -n "$LMKD_DRY_RUN" ] || trap 'lmkd_say "the pod $NAME stands and costs: \"$0 all\" goes on, \"$0 delete\" ends it"' EXIT
  while :; do
    state=""
    [ -n "$LMKD_DRY_RUN" ] || state=$(pod_state)
    if [ -n "$state" ] && is_gone "$state"; then delete && state=""; fi
    [ -n "$state" ] || create
    if wait_for_pod && copy && install; then run "$@"; elif is_gone "$(pod_state)"; then outcome=gone; else exit 1; fi
    [ "$outcome" = gone ] || break
    another_try "the pod was taken"
  done
  lmkd_note "a pod that was taken is deleted and asked for again, up to here"
  collect
  if [ "$KEEP" = no ]; then
    delete
    trap - EXIT
  fi
}

case $subcommand in
  create) create ;;
  wait) wait_for_pod ;;
  copy) copy ;;
  install) install ;;
  run) run "$@" ;;
  status)
    [ -n "$LMKD_DRY_RUN" ] || lmkd_say "$NAME: $(pod_state)"
    worker_states
    ;;
  log) on_all "bash lmkd/launch/tpu_worker.sh log" ;;
  stop) on_all "bash lmkd/launch/tpu_worker.sh stop" ;;
  collect) collect ;;
  delete) delete ;;
  all) all "$@" ;;
esac
case $outcome in
  "" | 0) ;;
  gone) lmkd_die "the pod $NAME was taken." "create, wait, copy and install another, and run again; all does so by itself." ;;
  *) lmkd_say "the run left with status $outcome" && exit "$outcome" ;;
esac
