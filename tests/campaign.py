"""The whole campaign of faults, and the soak: runs them and writes what was seen as Markdown. launch/faults.sh calls it.

python tests/campaign.py OUTPUT.md [--kills=20] [--soak_steps=2000]
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from statistics import median

import jax
from pod_test import finished, start

ROOT = Path(__file__).parents[1]
SUITES = ("tests/faults_test.py", "tests/pod_test.py", "tests/training/loop_test.py")
EVERY = 50


def faults(kills: int) -> list[str]:
    """Runs the faults; returns the rows of a table."""
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "junit.xml"
        environment = os.environ | {"LMKD_KILLS": str(kills), "LMKD_SLOW_TESTS": "1"}
        command = [sys.executable, "-m", "pytest", "-q", *SUITES, f"--junitxml={results}", "-o", "junit_family=xunit1"]
        subprocess.run(command, cwd=ROOT, env=environment, check=False)
        cases = ET.parse(results).getroot().iter("testcase")
        return [f"| {_words(c.get('name', ''))} | {_outcome(c)} | {float(c.get('time', 0)):.0f} |" for c in cases]


def _words(name: str) -> str:
    return name.removeprefix("test_").replace("_", " ")


def _outcome(case: ET.Element) -> str:
    bad = next((part.tag for part in case if part.tag in ("failure", "error", "skipped")), "held")
    properties = [f"{p.get('value')} {p.get('name')}" for p in case.iter("property")]
    return ", ".join([bad.upper() if bad != "held" else bad, *properties])


def soak(steps: int) -> tuple[list[tuple[int, float, int]], float]:
    """Trains a tiny network with a save every 50 steps; returns (step, resident MB, open files) at each, and its seconds."""
    with tempfile.TemporaryDirectory() as folder:
        begun, log = time.monotonic(), Path(folder) / "metrics.jsonl"
        (running,) = start(Path(folder), 1, 1, steps=steps, save_steps=EVERY, log_steps=EVERY, seconds_a_step=0.02)
        seen: dict[int, tuple[float, int]] = {}
        while running.poll() is None:
            time.sleep(0.1)
            rows = log.read_text().splitlines() if log.is_file() else []
            step = json.loads(rows[-1])["step"] if rows and rows[-1].endswith("}") else 0
            if step and step not in seen and running.poll() is None:
                seen[step] = _resident_mb(running.pid), len(list(Path(f"/proc/{running.pid}/fd").iterdir()))
        said = finished([running])
        if not seen:
            raise SystemExit(said[0][-3000:])
        return [(step, *figures) for step, figures in sorted(seen.items())], time.monotonic() - begun


def _resident_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in status if line.startswith("VmRSS")).split()[1]) / 1024


def soak_text(seen: list[tuple[int, float, int]], seconds: float) -> str:
    """Returns what the soak saw."""
    shown = [row for row in seen if row[0] % (EVERY * 4) == 0 or row is seen[0]]
    lines = ["| step | resident MB | open files |", "| ---: | ---: | ---: |"]
    lines += [f"| {step} | {mb:.0f} | {files} |" for step, mb, files in shown]
    later = [row for row in seen if row[0] > seen[-1][0] / 4]
    half = len(later) // 2
    grown = median(mb for _, mb, _ in later[half:]) - median(mb for _, mb, _ in later[:half])
    files = median(f for *_, f in later[half:]) - median(f for *_, f in later[:half])
    lines.append(
        f"\nFrom the first to the second half of the last three quarters: {grown:+.1f} MB, {files:+g} open files (medians)."
    )
    return "\n".join([*lines, f"The whole run took {seconds / 60:.1f} minutes."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--soak_steps", type=int, default=2000)
    given = parser.parse_args()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    where = (
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, jax {jax.__version__}, commit {commit or 'unknown'}"
    )
    given.output.parent.mkdir(parents=True, exist_ok=True)
    parts = ["# Faults on purpose", f"`bash launch/faults.sh`; {where}.", "## Soak"]
    parts.append(f"{given.soak_steps} steps of a tiny network through the real loop, a save every {EVERY} steps.")
    parts.append(soak_text(*soak(given.soak_steps)))
    _write(given.output, parts)  # what is known, should the rest be cut short
    parts += ["## Faults", "\n".join(["| fault | outcome | seconds |", "| --- | --- | ---: |", *faults(given.kills)])]
    _write(given.output, parts)
    print(f"written: {given.output}")


def _write(path: Path, parts: list[str]) -> None:
    path.write_text("\n\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
