"""The scripts that start several processes: what they would run, what they refuse, when they start again."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest
import yaml
from made_up_cluster import FLAGS, LAUNCH, ROOT, SUBCOMMAND, VARIABLES, Cluster

from lmkd.core.errors import UserError, folder


@pytest.fixture
def cluster(tmp_path):
    return Cluster(tmp_path)


@pytest.mark.parametrize("script", sorted(path.name for path in LAUNCH.glob("*.sh")))
def test_the_scripts_pass_shellcheck(script):
    if not shutil.which("shellcheck"):
        pytest.skip("shellcheck is not installed")
    result = subprocess.run(["shellcheck", "-x", f"launch/{script}"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("script", VARIABLES)
def test_help_explains_every_variable(cluster, script):
    text = cluster.run(script, "--help").stdout
    words = set(text.replace(",", " ").split())
    assert {"--dry_run", "Restarts:", *VARIABLES[script]} <= words
    assert "#" not in text and "set -euo" not in text


@pytest.mark.parametrize("script", VARIABLES)
def test_everything_that_is_missing_is_said_at_once_with_an_example(cluster, script):
    result = cluster.run(script, *SUBCOMMAND[script])
    assert result.returncode == 2 and cluster.calls() == []
    for name in VARIABLES[script]:
        assert f"- {name} is not set: " in result.stderr and f"such as {name}=" in result.stderr
    assert "- nothing to run: flags of lmkd.main come after --" in result.stderr


@pytest.mark.parametrize("script", VARIABLES)
def test_flags_that_a_script_sets_itself_are_refused(cluster, script):
    result = cluster.run(script, *SUBCOMMAND[script], "--", *FLAGS, "--workdir=x", "-process=1", **VARIABLES[script])
    assert result.returncode == 2
    assert "- --workdir: this script sets it" in result.stderr and "- --process: this script sets it" in result.stderr


@pytest.mark.parametrize(
    "script, wrong, told",
    [
        ("tpu_pod.sh", {"CAPACITY": "preemptible"}, "CAPACITY=preemptible takes QUEUED=no"),
        ("tpu_pod.sh", {"CAPACITY": "cheap"}, "CAPACITY=cheap: one of on_demand, spot, reserved, preemptible is needed"),
        ("slurm.sh", {"NODES": "two"}, "NODES=two: a whole number, 1 or more, is needed"),
        ("slurm.sh", {"GPUS": "0"}, "GPUS=0: 1 or more is needed"),
        ("slurm.sh", {"PROCESS_PER": "job"}, "PROCESS_PER=job: one of gpu, node is needed"),
        ("kubernetes.sh", {"NAME": "My_Job"}, "NAME=My_Job: small letters"),
        ("kubernetes.sh", {"WORKDIR": "runs/x"}, "WORKDIR=runs/x: a folder under MOUNT=/shared is needed"),
        ("tpu_pod.sh", {"WORKDIR": "/other/x", "BUCKET": "b"}, "WORKDIR=/other/x: a folder under MOUNT=/mnt/lmkd, where"),
        ("tpu_pod.sh", {"BUCKET": "gs://b"}, "BUCKET=gs://b: a name without gs:// and folders is needed"),
        ("tpu_pod.sh", {"LOCAL_DATA": "tfds"}, "LOCAL_DATA=tfds: a path from / on is needed"),
    ],
)
def test_wrong_variables_are_refused(cluster, script, wrong, told):
    result = cluster.run(script, *SUBCOMMAND[script], "--", *FLAGS, **{**VARIABLES[script], **wrong})
    assert result.returncode == 2 and f"  - {told}" in result.stderr
    assert cluster.calls() == []


@pytest.mark.parametrize("script", VARIABLES)
@pytest.mark.parametrize("bucket", [{}, {"BUCKET": "b"}])
def test_an_address_is_no_folder(cluster, script, bucket):
    wrong = {"WORKDIR": "gs://b/run", "DATA_DIR": "gs://b/tfds", **bucket}
    result = cluster.run(script, *SUBCOMMAND[script], "--", *FLAGS, **{**VARIABLES[script], **wrong})
    assert result.returncode == 2 and cluster.calls() == []
    for name in ("WORKDIR", "DATA_DIR"):
        with pytest.raises(UserError) as told:
            folder(name, wrong[name])
        assert f"  - {told.value}".rstrip(".") in result.stderr.splitlines()


def test_an_unknown_subcommand_names_the_known_ones(cluster):
    result = cluster.run("tpu_pod.sh", "rnu", **VARIABLES["tpu_pod.sh"])
    assert result.returncode == 2 and "rnu is no subcommand; create, wait, copy, install, run, status" in result.stderr


# SLURM


def test_slurm_queues_one_process_a_gpu(cluster):
    folder, batch = cluster.dry_run("slurm.sh", "--", *FLAGS)
    logs = f"{ROOT}/runs/slurm"
    assert shlex.split(folder) == ["mkdir", "-p", logs]
    assert shlex.split(batch) == [
        *("sbatch", "--job-name=lmkd", f"--chdir={ROOT}", "--nodes=2", "--ntasks-per-node=4", "--gpus-per-node=4"),
        *("--cpus-per-task=8", "--exclusive", "--mem=0", "--time=1:00:00", "--requeue", "--signal=TERM@180"),
        *("--open-mode=append", f"--output={logs}/%x_%j.log", f"{LAUNCH}/slurm_job.sh", "--process_per=gpu", "--gpus=4"),
        *(f"--logs={logs}", "--patience=600", "--max_restarts=20", "--", sys.executable, "-m", "lmkd.main"),
        *("--coordinator=auto", "--workdir=/shared/run", "--data_dir=/shared/tfds", *FLAGS),
    ]


def test_slurm_queues_one_process_a_node(cluster):
    optional = {"PARTITION": "gpu", "ACCOUNT": "me", "QOS": "low", "SBATCH_FLAGS": "--constraint=h100 --nice"}
    _, batch = cluster.dry_run("slurm.sh", "--", *FLAGS, PROCESS_PER="node", **optional)
    words = shlex.split(batch)
    assert {"--ntasks-per-node=1", "--cpus-per-task=32", "--partition=gpu", "--account=me", "--qos=low"} <= set(words)
    assert words.index("--nice") < words.index(f"{LAUNCH}/slurm_job.sh") < words.index("--process_per=node")


def job(cluster, *arguments, state="RUNNING", **variables):
    """Runs the batch script with an srun that runs its task here, once."""
    cluster.answer("srun", 'while [[ $1 == --* ]]; do shift; done; "$@"')
    cluster.answer("squeue", f"echo {state}")
    return cluster.run("slurm_job.sh", *arguments, SLURM_JOB_ID="42", SLURM_CPUS_PER_TASK="8", **variables)


def test_the_job_starts_its_command_once_a_task(cluster):
    task = 'echo "$JAX_LOCAL_DEVICE_IDS|$*"'
    result = job(cluster, "--process_per=node", "--gpus=4", "--logs=/l", "--", "bash", "-c", task, "bash", "a  b", "$c")
    assert result.returncode == 0 and result.stdout.splitlines()[0] == "0,1,2,3|a  b $c"
    (srun,) = cluster.calls()
    assert srun.startswith(
        "srun --kill-on-bad-exit=0 --wait=600 --cpus-per-task=8 --open-mode=append --output=/l/%x_%j_%t.log bash"
    )


@pytest.mark.parametrize("status", [143, 75, 1, 137])
def test_the_job_goes_back_into_the_queue(cluster, status):
    result = job(cluster, "--", "bash", "-c", f"exit {status}")
    assert result.returncode == status and cluster.calls()[-1] == "scontrol requeue 42"


@pytest.mark.parametrize(
    "status, variables",
    [(0, {}), (2, {}), (130, {}), (143, {"state": "COMPLETING"}), (75, {"SLURM_RESTART_COUNT": "20"})],
    ids=["done", "something given is wrong", "Ctrl-C", "scancel", "too often"],
)
def test_the_job_does_not_go_back_into_the_queue(cluster, status, variables):
    result = job(cluster, "--", "bash", "-c", f"exit {status}", **variables)
    assert result.returncode == status and "scontrol" not in "".join(cluster.calls())


def test_what_is_wrong_wins_over_the_peers_that_it_left(cluster):
    # srun's status is the highest of its tasks
    cluster.answer("srun", 'while [[ $1 == --* ]]; do shift; done; "$@" 2; a=$?; "$@" 75; b=$?; exit $((a > b ? a : b))')
    result = cluster.run("slurm_job.sh", "--", "bash", "-c", "exit $0", SLURM_JOB_ID="42")
    assert result.returncode == 2 and len(cluster.calls()) == 1


# Kubernetes


def rendered(cluster, *arguments, **variables):
    result = cluster.run("kubernetes.sh", "render", "--", *(arguments or FLAGS), **{**VARIABLES["kubernetes.sh"], **variables})
    assert result.returncode == 0, result.stderr
    return tuple(yaml.safe_load_all(result.stdout))


def test_pods_find_each_other_and_stand_for_their_processes(cluster):
    service, job = rendered(cluster, *FLAGS, '--config.a=$(HOME) \\ "x"')
    assert (service["kind"], service["spec"]["clusterIP"], service["spec"]["publishNotReadyAddresses"]) == (
        "Service",
        "None",
        True,
    )
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 2, 2)
    assert (pod["subdomain"], pod["restartPolicy"]) == (service["metadata"]["name"], "Never")
    (container,) = pod["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 8
    assert container["args"] == [
        *("--coordinator=faces-0.faces:8476", "--processes=2", "--workdir=/shared/runs/faces"),
        *("--data_dir=/shared/tfds", *FLAGS, '--config.a=$$(HOME) \\ "x"'),  # $$ keeps Kubernetes from expanding it
    ]
    assert container["command"][2].startswith("exec "), "SIGTERM is for Python, not for a shell in front of it"
    echo = [word.replace("python -m lmkd.main", "printf '%s|'") for word in container["command"]]
    said = subprocess.run(
        [*echo, *container["args"]], env={"JOB_COMPLETION_INDEX": "1"}, capture_output=True, text=True, check=True
    )
    assert said.stdout.split("|")[:2] == ["--process=1", "--coordinator=faces-0.faces:8476"]


def test_kubernetes_starts_again_but_not_after_status_2(cluster):
    spec = rendered(cluster, MAX_RESTARTS="3")[1]["spec"]
    assert spec["backoffLimit"] == 6
    fail, ignore = spec["podFailurePolicy"]["rules"]
    codes = {"containerName": spec["template"]["spec"]["containers"][0]["name"], "operator": "In", "values": [2, 130]}
    assert fail == {"action": "FailJob", "onExitCodes": codes}
    assert ignore == {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}


def test_kubernetes_places_pods_and_mounts_the_claim(cluster):
    where = {"SELECTOR": "a/b=true,c=2x2", "TOLERATE": "x/y", "RESOURCE": "google.com/tpu", "ANNOTATE": "g/volumes=true"}
    template = rendered(cluster, ACCOUNT="me", **where)[1]["spec"]["template"]
    pod = template["spec"]
    assert template["metadata"] == {"labels": {"lmkd-run": "faces"}, "annotations": {"g/volumes": "true"}}
    assert pod["nodeSelector"] == {"a/b": "true", "c": "2x2"} and pod["serviceAccountName"] == "me"
    assert pod["tolerations"] == [{"key": "x/y", "operator": "Exists"}]
    assert {"name": "shared", "persistentVolumeClaim": {"claimName": "disk"}} in pod["volumes"]
    assert {"name": "shared", "mountPath": "/shared"} in pod["containers"][0]["volumeMounts"]
    assert pod["containers"][0]["resources"]["limits"]["google.com/tpu"] == 8
    plain = rendered(cluster)[1]["spec"]["template"]
    assert not {"nodeSelector", "tolerations", "serviceAccountName"} & set(plain["spec"])
    assert set(plain["metadata"]) == {"labels"}


def test_apply_hands_kubectl_what_render_prints(cluster):
    cluster.answer("kubectl", "cat >stdin")
    result = cluster.run("kubernetes.sh", "apply", "--", *FLAGS, NAMESPACE="mine", **VARIABLES["kubernetes.sh"])
    assert result.returncode == 0, result.stderr
    assert cluster.calls() == ["kubectl --namespace=mine apply --filename=-"]
    assert tuple(yaml.safe_load_all((cluster.folder / "stdin").read_text())) == rendered(cluster)


def test_a_dry_apply_can_be_pasted(cluster):
    lines = cluster.dry_run("kubernetes.sh", "apply", "--", *FLAGS)
    cluster.answer("kubectl", "cat >stdin")
    path = f"{cluster.folder}/bin:{os.environ['PATH']}"
    subprocess.run(["bash", "-c", "\n".join(lines)], env={"PATH": path}, check=True)
    assert tuple(yaml.safe_load_all((cluster.folder / "stdin").read_text())) == rendered(cluster)


# One machine


def test_a_local_pod_prints_one_command_a_process(cluster):
    lines = cluster.dry_run("local_pod.sh", "2", "4", "--port=77", "--", *FLAGS, XLA_FLAGS="--xla_a=1")
    xla = "--xla_a=1 --xla_force_host_platform_device_count=4"
    common = ["env", "JAX_PLATFORMS=cpu", f"XLA_FLAGS={xla}", sys.executable, "-m", "lmkd.main", *FLAGS]
    assert lines[:2] == [f"cd {shlex.quote(str(ROOT))}", "mkdir -p runs/local_pod"] and lines[-1] == "wait"
    assert [shlex.split(line.split(" </dev/null ")[0]) for line in lines[2:-1]] == [
        [*common, "--coordinator=localhost:77", "--processes=2", f"--process={i}"] for i in (0, 1)
    ]
    assert lines[3].endswith(" </dev/null >>runs/local_pod/process_1.log 2>&1 &")


@pytest.mark.parametrize(
    "arguments, told",
    [
        ((), "N, the number of processes, is missing"),
        (("two", "--", "x"), "N=two: a whole number, 1 or more, is needed"),
        (("2", "0", "--", "x"), "D=0: 1 or more is needed"),
        (("2",), "nothing to run: it comes after --"),
        (("2", "--", "--coordinator=auto"), "--coordinator: this script sets it"),
    ],
)
def test_a_local_pod_says_what_is_wrong(cluster, arguments, told):
    result = cluster.run("local_pod.sh", *arguments)
    assert result.returncode == 2 and f"  - {told}" in result.stderr


def test_a_local_pod_stops_all_when_one_fails_and_returns_its_status(cluster):
    program = """
import os, pathlib, signal, sys, time
folder, flags = pathlib.Path(sys.argv[1]), sys.argv[2:]
print(flags, os.environ["XLA_FLAGS"], flush=True)
if flags[-1] == "--process=1":
    while not (folder / "ready").exists():
        time.sleep(0.01)
    sys.exit("a reason")
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
(folder / "ready").touch()
time.sleep(60)
"""
    command = [sys.executable, "-c", program, str(cluster.folder), "a b"]
    result = cluster.run("local_pod.sh", "2", "3", f"--logs={cluster.folder}/logs", "--", *command)
    assert result.returncode == 1, result.stderr
    assert "process 0 left with status 143" in result.stdout
    assert "process 1 left first, with status 1." in result.stderr and "  | a reason" in result.stderr
    head, said = (cluster.folder / "logs" / "process_0.log").read_text().split("\n['a b', ")
    assert head.startswith("== 20") and said.endswith(
        "'--processes=2', '--process=0'] --xla_force_host_platform_device_count=3\n"
    )


@pytest.mark.parametrize("number, status", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_local_pod_passes_signals_on_to_all(tmp_path, number, status):
    task = f"trap 'exit {status}' TERM INT; touch '{tmp_path}'/$RANDOM$RANDOM; while :; do sleep 0.05; done"
    command = ["bash", str(LAUNCH / "local_pod.sh"), "2", f"--logs={tmp_path}/logs", "--", "bash", "-c", task]
    env = {**os.environ, "PYTHON": sys.executable}
    # Whoever runs the tests in the background may have left Ctrl-C ignored, and no shell can trap what it was started ignoring.
    heed = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execvp(sys.argv[1], sys.argv[1:])"
    pod = subprocess.Popen([sys.executable, "-c", heed, *command], env=env, stdout=subprocess.PIPE, text=True)
    while len(list(tmp_path.iterdir())) < 3 and pod.poll() is None:  # logs, and one file of each process
        time.sleep(0.01)
    pod.send_signal(number)
    said, _ = pod.communicate(timeout=30)
    assert pod.returncode == status
    assert said.count(f"left with status {status}") == 2 and "the others are stopped" not in said
