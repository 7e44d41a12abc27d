"""A made-up cluster for the tests of launch/: gcloud, kubectl and SLURM's commands note how they are called, and answer."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
LAUNCH = ROOT / "launch"
CLUSTER_COMMANDS = ("gcloud", "kubectl", "sbatch", "srun", "squeue", "scontrol")
FLAGS = ("--config=configs/wflw.py", "--config.run='a b' $HOME")
VARIABLES = {
    "tpu_pod.sh": {
        "NAME": "faces",
        "PROJECT": "my-project",
        "ZONE": "us-central2-b",
        "ACCELERATOR": "v4-32",
        "RUNTIME": "tpu-ubuntu2204-base",
        "WORKDIR": "/mnt/lmkd/runs/faces",
        "DATA_DIR": "/mnt/lmkd/tfds",
    },
    "slurm.sh": {"NODES": "2", "GPUS": "4", "TIME": "1:00:00", "WORKDIR": "/shared/run", "DATA_DIR": "/shared/tfds"},
    "kubernetes.sh": {
        "NAME": "faces",
        "IMAGE": "image:1",
        "PROCESSES": "2",
        "DEVICES": "8",
        "CLAIM": "disk",
        "WORKDIR": "/shared/runs/faces",
        "DATA_DIR": "/shared/tfds",
    },
}
SUBCOMMAND = {"tpu_pod.sh": ["all"], "slurm.sh": [], "kubernetes.sh": ["apply"]}


class Cluster:
    """A PATH on which the cluster's commands note their words in `calls` and then run `answers[NAME]`, a piece of bash."""

    def __init__(self, folder: Path):
        self.folder, self.log = folder, folder / "calls"
        (folder / "bin").mkdir()
        for name in CLUSTER_COMMANDS:
            self.answer(name, "")

    def answer(self, name: str, script: str) -> None:
        path = self.folder / "bin" / name
        path.write_text(f'#!{shutil.which("bash")}\necho "{name} $*" >>"{self.log}"\ncd "{self.folder}"\n{script}\n')
        path.chmod(0o755)

    def calls(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    def run(self, script: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
        path = f"{self.folder}/bin:{os.environ['PATH']}"
        env = {"PATH": path, "HOME": str(self.folder), "TMPDIR": str(self.folder), "PYTHON": sys.executable, **variables}
        command = ["bash", str(LAUNCH / script), *arguments]
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)

    def dry_run(self, script: str, *arguments: str, **variables: str) -> list[str]:
        """The lines of a dry run that are commands."""
        result = self.run(script, "--dry_run", *arguments, **{**VARIABLES.get(script, {}), **variables})
        assert result.returncode == 0, result.stderr
        assert self.calls() == [], "a dry run runs nothing"
        return [line for line in result.stdout.splitlines() if not line.startswith("#")]
