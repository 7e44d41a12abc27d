#!/usr/bin/env bash
# A run on several nodes of a Kubernetes cluster: an Indexed Job, one pod a process, and the headless service by which they
# find each other.
#
#   NAME=faces IMAGE=my-image:1 PROCESSES=2 DEVICES=8 WORKDIR=/shared/runs/faces DATA_DIR=/shared/tfds CLAIM=my-claim \
#     bash launch/kubernetes.sh apply -- --config=configs/wflw.py
#
#   render -- FLAGS   prints the YAML      status   of the job and its pods
#   apply -- FLAGS    starts the run       log [I]  follows the log of process I (0)
#   stop              suspends the job: SIGTERM to every pod, the run saves and leaves; `resume` goes on
#   resume            goes on after stop   delete   removes job and service; the workdir stays
#
# FLAGS are flags of `python -m lmkd.main`; --coordinator, --processes, --process, --workdir and --data_dir are added.
# --dry_run prints the commands and runs nothing; --help prints this. Kubernetes 1.28 or newer.
#
# Variables that have no default:
#   NAME          of job and service, such as faces: small letters, digits and dashes, at most 52
#   IMAGE         a container image of yours with lmkd and the JAX of the devices (pip install 'lmkd[cuda]')
#   PROCESSES     pods, such as 2; each drives all of its DEVICES
#   DEVICES       of each pod, such as 8
#   CLAIM         a persistent volume claim that every pod may write to (ReadWriteMany): a shared file system, or a bucket by
#                 the GCS FUSE CSI driver (docs/scaling.md)
#   WORKDIR       the run's folder, the same for every pod, under MOUNT, such as /shared/runs/faces
#   DATA_DIR      prepared data sets, for every pod to read, under MOUNT, such as /shared/tfds
# and those that have one:
#   MOUNT         where CLAIM is mounted (/shared)
#   RESOURCE      what a device is called (nvidia.com/gpu); google.com/tpu
#   SELECTOR      labels of the nodes, such as cloud.google.com/gke-tpu-topology=2x2x4,cloud.google.com/gke-spot=true (any)
#   TOLERATE      taints that are no hindrance, by key, such as cloud.google.com/gke-spot,nvidia.com/gpu (none)
#   ANNOTATE      annotations of the pods, such as gke-gcsfuse/volumes=true (none)
#   ACCOUNT       service account, such as one that may read and write the bucket (the namespace's own)
#   CPU, MEMORY   of each pod, such as 32 and 128Gi (8, 32Gi); half of MEMORY at most is shared memory
#   NAMESPACE     (default)
#   PORT          where process 0 listens (8476)
#   GRACE         seconds that a pod may take to save and leave after SIGTERM (180)
#   MAX_RESTARTS  how often the run may be started again; every pod that fails counts, so the limit is this x PROCESSES (20)
#
# Restarts: a pod that was preempted or evicted is replaced, whatever the count. Its peers stop by themselves with 75 (a peer
# died) and are replaced too; all of them meet again and go on from the last checkpoint. 2 (something given is wrong) fails
# the job at once. A job that has failed or is done is not started again by apply: delete, then apply; it goes on.
set -euo pipefail
here=$(dirname -- "${BASH_SOURCE[0]}")
# shellcheck source-path=SCRIPTDIR source=setup.sh
source "$here/setup.sh"
# shellcheck source-path=SCRIPTDIR source=variables.sh
source "$here/variables.sh"

lmkd_read "$@"
lmkd_subcommand render apply status log stop resume delete
if [ "$subcommand" = log ]; then lmkd_at_most 2; else lmkd_at_most 1; fi
index=${lmkd_words[1]:-0}
set -- ${lmkd_rest[@]+"${lmkd_rest[@]}"}

MOUNT=${MOUNT:-/shared} RESOURCE=${RESOURCE:-nvidia.com/gpu} CPU=${CPU:-8} MEMORY=${MEMORY:-32Gi} NAMESPACE=${NAMESPACE:-default}
PORT=${PORT:-8476} GRACE=${GRACE:-180} MAX_RESTARTS=${MAX_RESTARTS:-20}

# A folder that all pods share: one on the claim.
shared_folder() {
  case ${!1:-} in
    "" | "$MOUNT"/*) ;;
    *://*) lmkd_folder "$1" ;;
    *) lmkd_wrong "$1=$(lmkd_quoted "${!1}"): a folder under MOUNT=$MOUNT is needed, the same for every pod" ;;
  esac
}

lmkd_need NAME "of job and service" faces
dns='^[a-z]([-a-z0-9]{0,50}[a-z0-9])?$'
[ -z "${NAME:-}" ] || [[ $NAME =~ $dns ]] || lmkd_wrong "NAME=$(lmkd_quoted "$NAME"): small letters, digits and dashes, at most 52, a letter first"
lmkd_whole index 0
case $subcommand in render | apply)
  lmkd_need IMAGE "a container image with lmkd" my-image:1
  lmkd_need_whole PROCESSES "how many pods" 2
  lmkd_need_whole DEVICES "how many devices a pod has" 8
  lmkd_need CLAIM "the volume claim that is mounted at $MOUNT" my-claim
  lmkd_need WORKDIR "the run's folder, shared by the pods" "$MOUNT/runs/faces"
  lmkd_need DATA_DIR "prepared data sets, shared by the pods" "$MOUNT/tfds"
  shared_folder WORKDIR
  shared_folder DATA_DIR
  lmkd_whole PORT 1
  lmkd_whole GRACE 1
  lmkd_whole MAX_RESTARTS 0
  lmkd_run_flags "$@"
  ;;
esac
lmkd_checked
cd -- "$LMKD_ROOT"

# Text as YAML takes it between double quotes, which is JSON's way.
text() {
  local word=${1//\\/\\\\}
  printf '"%s"' "${word//\"/\\\"}"
}

# Lines "KEY: VALUE" under a heading, from "key=value,key=value".
labels() {
  local pair pairs
  IFS=, read -ra pairs <<<"$2"
  printf '      %s:\n' "$1"
  for pair in "${pairs[@]}"; do printf '        %s: %s\n' "${pair%%=*}" "$(text "${pair#*=}")"; done
}

placement() {
  local key keys
  [ -z "${ACCOUNT:-}" ] || printf '      serviceAccountName: %s\n' "$ACCOUNT"
  [ -z "${SELECTOR:-}" ] || labels nodeSelector "$SELECTOR"
  if [ -n "${TOLERATE:-}" ]; then
    printf '      tolerations:\n'
    IFS=, read -ra keys <<<"$TOLERATE"
    for key in "${keys[@]}"; do printf '        - {key: %s, operator: Exists}\n' "$(text "$key")"; done
  fi
}

# Kubernetes would put variables in for $(NAME); $$ stands for a dollar.
arguments() {
  local word
  for word in "$@"; do printf '            - %s\n' "$(text "${word//\$(/\$\$(}")"; done
}

render() {
  cat <<YAML
apiVersion: v1
kind: Service
metadata:
  name: $NAME
  labels: {lmkd-run: $NAME}
spec:
  clusterIP: None # headless: pods are found by name, $NAME-0.$NAME
  publishNotReadyAddresses: true # process 0 is looked for before it is ready
  selector:
    job-name: $NAME
  ports:
    - {name: coordinator, port: $PORT}
---
apiVersion: batch/v1
kind: Job
metadata:
  name: $NAME
  labels: {lmkd-run: $NAME}
spec:
  completionMode: Indexed # the pod's index is its process
  completions: $PROCESSES
  parallelism: $PROCESSES
  backoffLimit: $((MAX_RESTARTS * PROCESSES))
  podFailurePolicy:
    rules: # the first that fits
      - action: FailJob # something given is wrong (the same again next time), or stopped by hand
        onExitCodes: {containerName: lmkd, operator: In, values: [2, 130]}
      - action: Ignore # preempted, drained, evicted: replaced and not counted
        onPodConditions:
          - {type: DisruptionTarget, status: "True"}
  template:
    metadata:
      labels: {lmkd-run: $NAME}
$([ -z "${ANNOTATE:-}" ] || labels annotations "$ANNOTATE")
    spec:
      subdomain: $NAME
      restartPolicy: Never
      terminationGracePeriodSeconds: $GRACE
$(placement)
      containers:
        - name: lmkd
          image: $(text "$IMAGE")
          command: # exec, so that SIGTERM reaches Python
            - bash
            - -c
            - exec python -m lmkd.main --process="\$JOB_COMPLETION_INDEX" "\$@"
            - lmkd
          args:
$(arguments "--coordinator=$NAME-0.$NAME:$PORT" "--processes=$PROCESSES" "--workdir=$WORKDIR" "--data_dir=$DATA_DIR" "$@")
          resources:
            requests: {cpu: $(text "$CPU"), memory: $(text "$MEMORY")}
            limits: {memory: $(text "$MEMORY"), $RESOURCE: $DEVICES}
          volumeMounts:
            - {name: shm, mountPath: /dev/shm} # the input pipeline's workers and NCCL
            - {name: shared, mountPath: $(text "$MOUNT")}
      volumes:
        - {name: shm, emptyDir: {medium: Memory}}
        - {name: shared, persistentVolumeClaim: {claimName: $CLAIM}}
YAML
}

# Without the empty lines of what is not set.
rendered() { render "$@" | sed '/^$/d'; }

kubectl=(kubectl "--namespace=$NAMESPACE")
case $subcommand in
  render) rendered "$@" ;;
  apply)
    if [ -n "$LMKD_DRY_RUN" ]; then
      printf "%s <<'YAML'\n%s\nYAML\n" "$(lmkd_quoted "${kubectl[@]}" apply --filename=-)" "$(rendered "$@")"
    else
      rendered "$@" | lmkd_run "${kubectl[@]}" apply --filename=-
    fi
    ;;
  status) lmkd_run "${kubectl[@]}" get jobs,pods "--selector=lmkd-run=$NAME" ;;
  log)
    lmkd_run "${kubectl[@]}" logs "--selector=lmkd-run=$NAME,batch.kubernetes.io/job-completion-index=$index" \
      --follow --prefix --tail=100 --max-log-requests=100
    ;;
  stop) lmkd_run "${kubectl[@]}" patch "job/$NAME" --patch='{"spec":{"suspend":true}}' ;;
  resume) lmkd_run "${kubectl[@]}" patch "job/$NAME" --patch='{"spec":{"suspend":false}}' ;;
  delete) lmkd_run "${kubectl[@]}" delete "job/$NAME" "service/$NAME" ;;
esac
