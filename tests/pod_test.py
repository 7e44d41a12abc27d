"""Several real processes as one run: the same losses and scores however faces are shared out; a peer that stops, dies, hangs.

The processes train a tiny network through the loop (pod_worker.py); LMKD_SLOW_TESTS=1 also sends a whole experiment through
launch/local_pod.sh.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

ROUNDING = 5e-5  # of losses after a few steps: each device adds up its own faces first
SLOW = pytest.mark.skipif(not os.environ.get("LMKD_SLOW_TESTS"), reason="takes a minute: LMKD_SLOW_TESTS=1 runs it")
WORKER = Path(__file__).with_name("pod_worker.py")


def start(folder: Path, processes: int, devices: int, **job) -> list[subprocess.Popen]:
    """Starts the processes of one run."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    together = {"coordinator": f"127.0.0.1:{port}", "processes": processes} if processes > 1 else {}
    flags = [f for f in os.environ.get("XLA_FLAGS", "").split() if "device_count" not in f]
    environment = os.environ | {
        "XLA_FLAGS": " ".join([*flags, f"--xla_force_host_platform_device_count={devices}"]),
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), str(WORKER.parent)]),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",  # dozens of processes compile the same small programs
    }
    jobs = [{"folder": str(folder), **job, **together, **({"process": n} if together else {})} for n in range(processes)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return [subprocess.Popen([sys.executable, WORKER, json.dumps(one)], env=environment, **pipes) for one in jobs]


def finished(running: list[subprocess.Popen], *, status: int = 0) -> list[str]:
    """Waits; returns what each process said."""
    said = [process.communicate(timeout=240) for process in running]
    for process, (_, errors) in zip(running, said, strict=True):
        assert process.returncode == status, errors
    return [out + errors for out, errors in said]


def told(said: list[str]) -> dict:
    """What the processes found, which is the same for all."""
    found = [json.loads(next(line for line in text.splitlines() if line.startswith("TOLD "))[5:]) for text in said]
    assert all(one == found[0] for one in found)
    return found[0]


def wait_for_steps(folder: Path, steps: int, running: list[subprocess.Popen]) -> None:
    log = folder / "metrics.jsonl"
    for _ in range(1200):
        if log.is_file() and len(log.read_text().splitlines()) >= steps:
            return
        assert all(process.poll() is None for process in running), running[0].communicate()
        time.sleep(0.1)
    raise AssertionError("the run makes no steps")


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, tuple[Path, dict]]:
    """Six steps of 8 faces over four devices: in one process, in two, and in two over a mesh."""
    root = tmp_path_factory.mktemp("pods")
    cases = {"one": (1, 4, "pmap"), "two": (2, 2, "pmap"), "mesh": (2, 2, "mesh")}
    found = {}
    for name, (processes, devices, kind) in cases.items():
        running = start(root / name, processes, devices, steps=6, kind=kind)
        found[name] = (root / name, told(finished(running)))
    return found


def test_processes_share_a_run_without_changing_it(runs):
    alone, shared = runs["one"][1], runs["two"][1]
    np.testing.assert_allclose(shared["losses"], alone["losses"], rtol=ROUNDING)
    assert len(alone["losses"]) == 6
    assert shared["keys"] == alone["keys"] == [f"face{n}" for n in range(11)]  # each once, 11 faces over 4 devices
    np.testing.assert_allclose(shared["predicted_px"], alone["predicted_px"], atol=1e-3)


def test_a_mesh_gives_what_pmap_gives(runs):
    assert runs["mesh"][1] == runs["two"][1]


@pytest.mark.parametrize("before,after,whole", [((2, 2), (1, 2), "two"), pytest.param((1, 4), (2, 1), "one", marks=SLOW)])
def test_a_checkpoint_goes_on_with_other_processes_and_devices(runs, tmp_path, before, after, whole):
    finished(start(tmp_path, *before, steps=3))
    again, undisturbed = told(finished(start(tmp_path, *after, steps=6))), runs[whole][1]
    assert again["losses"][:3] == undisturbed["losses"][:3]  # kept, not trained again
    np.testing.assert_allclose(again["losses"], undisturbed["losses"], rtol=ROUNDING)
    np.testing.assert_allclose(again["sum"], undisturbed["sum"], rtol=ROUNDING)


def test_a_signal_to_one_process_stops_all_after_the_same_step(tmp_path):
    running = start(tmp_path, 2, 1, steps=400, seconds_a_step=0.05)
    wait_for_steps(tmp_path, 3, running)
    running[1].send_signal(signal.SIGTERM)
    first, second = finished(running, status=128 + signal.SIGTERM)
    assert "the state is saved" in first
    step = first.split("after step ")[1].split(";")[0]
    assert f"after step {step};" in second
    assert [p.name for p in (tmp_path / "checkpoints").iterdir() if p.name == step]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_peer_that_dies_or_hangs_ends_the_others_in_time_and_a_restart_goes_on(tmp_path, number):
    running = start(tmp_path, 2, 1, steps=400, seconds_a_step=0.05, stall_seconds=12)
    try:
        wait_for_steps(tmp_path, 4, running)
        running[1].send_signal(number)
        begun = time.monotonic()
        _, errors = running[0].communicate(timeout=60)
        assert time.monotonic() - begun < 30
        assert running[0].returncode == 75, errors
        hangs = "nothing has moved for 12 s since step" in errors and "most recent call first" in errors
        assert hangs if number == signal.SIGSTOP else hangs or "another process of this run is lost" in errors
    finally:
        for process in running:
            process.kill()
            process.communicate()
    if number == signal.SIGSTOP:
        return
    steps = len((tmp_path / "metrics.jsonl").read_text().splitlines())
    finished(start(tmp_path, 1, 2, steps=steps + 3))


@SLOW
def test_an_experiment_in_four_processes_scores_as_in_one(tmp_path):
    def run(processes: int, devices: int) -> dict:
        folder = tmp_path / str(processes)
        flags = [f"--workdir={folder}", f"--data_dir={tmp_path / 'data'}", "--no_faces", "--config.stages=teacher_w32"]
        script = Path(__file__).parents[1] / "launch" / "local_pod.sh"
        command = ["bash", str(script), str(processes), str(devices), "--", "--config=configs/quickstart.py:smoke", *flags]
        environment = os.environ | {"PYTHON": sys.executable}
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads((folder / "results.json").read_text())["results"][0]["overall"]

    alone, shared = run(1, 4), run(4, 1)
    assert shared["faces"] == alone["faces"]
    assert shared["nme_percent"] == pytest.approx(alone["nme_percent"], rel=1e-4)
