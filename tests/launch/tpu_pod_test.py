"""launch/tpu_pod.sh and launch/tpu_worker.sh: a pod from create to delete, pods that are taken, runs that start again."""

import os
import shlex
import shutil
import signal
import subprocess

import pytest
from made_up_cluster import FLAGS, LAUNCH, VARIABLES, Cluster


@pytest.fixture
def cluster(tmp_path):
    return Cluster(tmp_path)


def test_a_pod_from_create_to_delete(cluster):
    ssh = "gcloud compute tpus tpu-vm ssh faces --zone=us-central2-b --project=my-project --worker=all"
    where = "--zone=us-central2-b --project=my-project"
    lines = cluster.dry_run("tpu_pod.sh", "all", "--", *FLAGS, BUCKET="bucket", LOCAL_DATA="/tmp/tfds")
    assert lines[0] == (
        f"gcloud compute tpus queued-resources create faces {where} --accelerator-type=v4-32 --spot"
        " --runtime-version=tpu-ubuntu2204-base --node-id=faces"
    )
    archive = f"{cluster.folder}/lmkd_faces.tar.gz"
    assert lines[3:7] == [
        f"git archive --format=tar.gz --prefix=lmkd/ --output={archive} HEAD",
        f"gcloud compute tpus tpu-vm scp {archive} faces:lmkd.tar.gz {where} --worker=all",
        f"{ssh} '--command=tar xzf lmkd.tar.gz'",
        f"rm {archive}",
    ]
    assert lines[-2:] == [
        "gcloud storage rsync --recursive gs://bucket/runs/faces runs/faces",
        f"gcloud compute tpus queued-resources delete faces {where} --force --quiet",
    ]
    (start,) = (line for line in lines if "tpu_worker.sh start" in line)
    remote = shlex.split(start)[-1].removeprefix("--command=")  # as gcloud gets it, and then as the worker's shell reads it
    script = "bash lmkd/launch/tpu_worker.sh"
    folders = f"{script} mount bucket /mnt/lmkd && {script} localise /mnt/lmkd/tfds /tmp/tfds &&"
    assert f"--command={folders} " in lines[7] and "lmkd_setup tpu" in lines[7]
    assert shlex.split(remote) == [
        *folders.split(),
        *("cd", "lmkd", "&&", "bash", "launch/tpu_worker.sh", "start", "--", ".venv/bin/python", "-m", "lmkd.main"),
        *("--coordinator=auto", "--workdir=/mnt/lmkd/runs/faces", "--data_dir=/tmp/tfds", *FLAGS),
    ]


def test_folders_on_a_share_are_used_where_they_lie(cluster):
    lines = cluster.dry_run("tpu_pod.sh", "all", "--", *FLAGS, WORKDIR="/share/run", DATA_DIR="/share/tfds")
    assert not any(" mount " in line or " localise " in line for line in lines)
    assert any("--workdir=/share/run --data_dir=/share/tfds" in line for line in lines)
    where = "--zone=us-central2-b --project=my-project"
    assert lines[-2] == f"gcloud compute tpus tpu-vm scp faces:/share/run runs/faces {where} --worker=0 --recurse"


@pytest.mark.parametrize(
    "variables, flags",
    [
        ({"CAPACITY": "on_demand"}, "--version=tpu-ubuntu2204-base"),
        ({"CAPACITY": "preemptible"}, "--preemptible --version=tpu-ubuntu2204-base"),
        ({"CAPACITY": "reserved", "CREATE_FLAGS": "--a=b --c"}, "--reserved --version=tpu-ubuntu2204-base --a=b --c"),
    ],
)
def test_a_pod_without_the_queue(cluster, variables, flags):
    create = "gcloud compute tpus tpu-vm create faces --zone=us-central2-b --project=my-project --accelerator-type=v4-32"
    assert cluster.dry_run("tpu_pod.sh", "create", QUEUED="no", **variables) == [f"{create} {flags}"]


# What this gcloud knows: `pod` holds the pod's state, `outcomes` one line for each run: what `status` will say of it.
GCLOUD = """
case "$*" in
  *" create "*) echo ACTIVE >pod ;;
  *" delete "*) rm -f pod ;;
  *"queued-resources describe"*) [ -e pod ] || { echo "NOT_FOUND: no such pod" >&2; exit 1; }; cat pod ;;
  *"tpu-vm describe"*) sed s/ACTIVE/READY/ pod ;;
  *tpu_worker.sh\\ start*) echo >>runs ;;
  *tpu_worker.sh\\ status*)
    said=$(sed -n "$(wc -l <runs)p" outcomes)
    [ "$said" != taken ] || { echo SUSPENDED >pod; exit 255; }
    for state in $said; do echo "lmkd-worker host $state"; done
    ;;
esac
"""


def pod(cluster, subcommand, *outcomes, standing=True, gcloud=GCLOUD, **variables):
    cluster.answer("gcloud", gcloud)
    (cluster.folder / "outcomes").write_text("\n".join(outcomes) + "\n")
    if standing:
        (cluster.folder / "pod").write_text("ACTIVE\n")
    results = str(cluster.folder / "results")
    variables = {**VARIABLES["tpu_pod.sh"], "BUCKET": "bucket", "RESULTS": results, "POLL_SECONDS": "0", **variables}
    result = cluster.run("tpu_pod.sh", subcommand, "--", *FLAGS, **variables)
    words = " ".join(cluster.calls()).split()
    return result, {word: words.count(word) for word in ("create", "delete", "start", "rsync")}


def test_a_pod_that_was_taken_is_replaced_and_the_run_goes_on(cluster):
    result, calls = pod(cluster, "all", "taken", "143 75", "0 0", standing=False)
    assert result.returncode == 0, result.stderr
    assert calls == {"create": 2, "delete": 2, "start": 3, "rsync": 1}
    assert "the pod was taken: again (1 of 20)" in result.stdout
    assert "the run left with status 143: again (2 of 20)" in result.stdout


def test_a_pod_that_stands_is_used_and_may_be_kept(cluster):
    result, calls = pod(cluster, "all", "0 0", KEEP="yes")
    assert result.returncode == 0, result.stderr
    assert calls == {"create": 0, "delete": 0, "start": 1, "rsync": 1}
    assert "the pod faces stands and costs" in result.stdout


@pytest.mark.parametrize("outcome, status", [("75 2", 2), ("0 130", 130)])
def test_a_run_that_would_fail_again_is_not_started_again(cluster, outcome, status):
    result, calls = pod(cluster, "run", outcome, "0 0")
    assert result.returncode == status and calls["start"] == 1


def test_restarts_have_an_end(cluster):
    result, calls = pod(cluster, "run", "75 75", "75 0", "75 75", MAX_RESTARTS="1")
    assert result.returncode == 1 and calls["start"] == 2
    assert "given up after MAX_RESTARTS=1 restarts; the last: the run left with status 75." in result.stderr


def test_a_pod_is_not_given_up_because_gcloud_cannot_be_asked(cluster):
    offline = 'case "$*" in *status* | *describe*) echo "network unreachable" >&2; exit 1 ;; *start*) echo >>runs ;; esac'
    result, calls = pod(cluster, "run", gcloud=offline)
    assert result.returncode == 1 and calls["delete"] == 0
    assert "the workers of faces do not answer, though the pod may be there." in result.stderr
    result, calls = pod(cluster, "all", gcloud=offline)
    assert result.returncode == 1 and calls["create"] == calls["delete"] == 0
    assert "network unreachable\nerror: gcloud does not say what has become of faces" in result.stderr


def worker(tmp_path, *arguments):
    env = {**os.environ, "LMKD_WORKER_DIR": str(tmp_path / "worker")}
    return subprocess.run(
        ["bash", LAUNCH / "tpu_worker.sh", *arguments], env=env, capture_output=True, text=True, check=True
    ).stdout


def test_a_worker_mounts_a_bucket_once(cluster):
    mount = ("tpu_worker.sh", "mount", "my-bucket", f"{cluster.folder}/mnt")
    for name, script in {"sudo": '"$@"', "mountpoint": "[ -e mounted ]", "mkdir": "", "chown": ""}.items():
        cluster.answer(name, script)
    result = cluster.run(*mount)
    assert result.returncode == 2 and "gcsfuse is not on" in result.stderr
    cluster.answer("gcsfuse", "")
    for _ in range(2):
        result = cluster.run(*mount)
        assert result.returncode == 0, result.stderr
        (cluster.folder / "mounted").touch()
    (call,) = [call for call in cluster.calls() if call.startswith("gcsfuse")]
    assert call.split()[-2:] == ["my-bucket", f"{cluster.folder}/mnt"] and "--rename-dir-limit=200000" in call


def test_a_worker_copies_the_data_once(tmp_path):
    (tmp_path / "bucket" / "faces").mkdir(parents=True)
    (tmp_path / "bucket" / "faces" / "a").write_text("1")
    (tmp_path / "disk" / "tfds.part").mkdir(parents=True)  # left by a copy that was cut short
    for written in ("1", "2"):
        (tmp_path / "bucket" / "faces" / "a").write_text(written)
        worker(tmp_path, "localise", str(tmp_path / "bucket"), str(tmp_path / "disk" / "tfds"))
    (copied,) = (path for path in (tmp_path / "disk").rglob("*") if path.is_file())
    assert copied == tmp_path / "disk" / "tfds" / "faces" / "a" and copied.read_text() == "1"


def state(tmp_path):
    return worker(tmp_path, "status").split()[2]


def state_at_rest(tmp_path):
    for _ in range(200):
        if (found := state(tmp_path)) != "running":
            return found
    return "running"


linux = pytest.mark.skipif(
    not shutil.which("flock") or not shutil.which("setsid"), reason="TPU VMs run Linux: flock and setsid"
)


@linux
def test_a_worker_runs_one_run_at_a_time(tmp_path):
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    assert state(tmp_path) == "none"
    leaves_something = f'echo "here: $1"; sleep 60 & echo $! >{tmp_path}/left; read -r status <{gate}; exit "$status"'
    worker(tmp_path, "start", "--", "bash", "-c", leaves_something, "run", "a b")
    assert state(tmp_path) == "running"
    assert "a run is going on already" in worker(tmp_path, "start", "--", "echo", "second")
    gate.write_text("75\n")
    assert state_at_rest(tmp_path) == "75"
    os.kill(int((tmp_path / "left").read_text()), signal.SIGKILL)
    assert worker(tmp_path, "log").splitlines()[-1] == "here: a b"


@linux
@pytest.mark.parametrize("by_hand, status", [(True, "130"), (False, "143")])
def test_a_worker_tells_stopped_by_hand_from_preempted(tmp_path, by_hand, status):
    ready = tmp_path / "ready"
    os.mkfifo(ready)
    worker(tmp_path, "start", "--", "bash", "-c", f"trap 'exit 143' TERM; echo >{ready}; while :; do sleep 0.01; done")
    ready.read_text()
    if by_hand:
        worker(tmp_path, "stop")
    else:
        os.kill(int((tmp_path / "worker" / "pid").read_text()), signal.SIGTERM)
    assert state_at_rest(tmp_path) == status
