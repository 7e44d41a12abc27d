"""launch/setup.sh against made-up interpreters: what it says, and what it does not do twice."""

import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# What the scripts take from the system; everything else on PATH is made up here.
TOOLS = ("bash", "dirname", "cksum", "head", "sed", "cat", "mkdir", "rm", "env", "printf")


@pytest.fixture
def checkout(tmp_path):
    """A checkout with the scripts and a pyproject.toml, and a PATH of its own without any Python."""
    root = tmp_path / "a checkout"  # with a space, which quoting must survive
    shutil.copytree(ROOT / "launch", root / "launch")
    (root / "pyproject.toml").write_text('[project]\nname = "lmkd"\n')
    (tmp_path / "bin").mkdir()
    for tool in TOOLS:
        if found := shutil.which(tool):
            (tmp_path / "bin" / tool).symlink_to(found)
    return root


def executable(path, script):
    path.write_text(f"#!{shutil.which('bash')}\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def fake_python(checkout, name, version, *, makes_venv=True):
    """A Python that answers the probe; `-m venv DIR` makes one whose python logs what it is asked, in `calls`."""
    log, answer = checkout.parent / "calls", "yes" if makes_venv else "no"
    minor = version.split(".")[1]
    probe = f'echo "{version} {minor} {answer} {checkout.parent}/bin/{name}"' if version.startswith("3") else "exit 1"
    inner = f'[ "$1" = - ] && {{ {probe}; exit; }}; echo "venv-python $*" >> "{log}"'
    script = f"""
if [ "$1" = - ]; then {probe}; exit; fi
echo "{name} $*" >> "{log}"
if [ "$2" = venv ]; then
  mkdir -p "$3/bin"
  printf '%s\\n' '#!{shutil.which("bash")}' '{inner}' > "$3/bin/python"
  {shutil.which("chmod")} +x "$3/bin/python"
fi"""
    executable(checkout.parent / "bin" / name, script)


def calls(checkout):
    log = checkout.parent / "calls"
    return log.read_text().splitlines() if log.exists() else []


def run(checkout, script="quickstart.sh", *arguments, cwd=None, **env):
    return subprocess.run(
        ["bash", str(checkout / "launch" / script), *arguments],
        cwd=cwd or checkout.parent,
        env={"PATH": str(checkout.parent / "bin"), "HOME": str(checkout.parent), **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_no_python_at_all(checkout):
    result = run(checkout)
    assert result.returncode == 1
    assert "Python 3.11 or newer is needed; no working python3 was found" in result.stderr
    assert "apt-get install python3 python3-venv" in result.stderr


def test_python_too_old_names_what_was_found(checkout):
    fake_python(checkout, "python3", "3.9.18")
    result = run(checkout)
    assert result.returncode == 1
    assert "error: Python 3.11 or newer is needed; found: python3 is 3.9.18." in result.stderr
    assert "PYTHON=/path/to/python3.12" in result.stderr


def test_python_2_does_not_count(checkout):
    fake_python(checkout, "python3", "2.7.18")
    assert "no working python3 was found" in run(checkout).stderr


def test_a_shim_that_does_not_run_is_passed_over(checkout):
    executable(checkout.parent / "bin" / "python3.13", "echo 'pyenv: python3.13: command not found' >&2; exit 127")
    fake_python(checkout, "python3", "3.10.2")
    assert "found: python3 is 3.10.2." in run(checkout).stderr


def test_no_venv_module_names_the_debian_package(checkout):
    fake_python(checkout, "python3", "3.12.3", makes_venv=False)
    result = run(checkout)
    assert result.returncode == 1
    assert "/bin/python3 cannot make virtual environments" in result.stderr
    assert "sudo apt-get install python3.12-venv" in result.stderr
    assert not (checkout / ".venv").exists()


def test_an_older_python_with_venv_is_preferred_to_a_newer_one_without(checkout):
    fake_python(checkout, "python3.13", "3.13.0", makes_venv=False)
    fake_python(checkout, "python3.11", "3.11.9")
    assert run(checkout).returncode == 0
    assert calls(checkout)[0].startswith("python3.11 -m venv")


def test_the_newest_python_is_chosen(checkout):
    for name, version in (("python3", "3.11.2"), ("python3.12", "3.12.1"), ("python3.11", "3.11.9")):
        fake_python(checkout, name, version)
    assert run(checkout).returncode == 0
    assert calls(checkout)[0].startswith("python3.12 -m venv")


def test_the_environment_variable_chooses_the_python(checkout):
    fake_python(checkout, "python3.12", "3.12.1")
    fake_python(checkout, "mine", "3.11.9")
    assert run(checkout, PYTHON="mine").returncode == 0
    assert calls(checkout)[0].startswith("mine -m venv")


def test_quickstart_installs_once_and_hands_its_flags_on(checkout):
    fake_python(checkout, "python3", "3.11.9")
    result = run(checkout, "quickstart.sh", "--config.seed=3", "--workdir=a b")
    assert result.returncode == 0, result.stderr
    assert calls(checkout)[0] == f"python3 -m venv {checkout}/.venv"
    assert "venv-python -m pip install --quiet --disable-pip-version-check -e ." in calls(checkout)
    main = "venv-python -m lmkd.main --config=configs/quickstart.py --config.seed=3 --workdir=a b"
    assert calls(checkout)[-1] == main

    before = len(calls(checkout))
    assert run(checkout, "quickstart.sh", cwd="/").returncode == 0
    assert calls(checkout)[before:] == ["venv-python -m lmkd.main --config=configs/quickstart.py"]


def installs(checkout):
    return [c.rsplit(" -e ", 1)[1] for c in calls(checkout) if " -e " in c]


def test_a_changed_pyproject_or_a_wider_extra_installs_again(checkout):
    fake_python(checkout, "python3", "3.11.9")
    run(checkout)
    assert installs(checkout) == ["."]
    run(checkout, "test.sh")  # fails at ruff, which the made-up environment lacks, after the installation
    assert installs(checkout) == [".", ".[dev]"]
    run(checkout)
    assert installs(checkout) == [".", ".[dev]"]  # dev includes what the quickstart needs
    subprocess.run(
        ["bash", "-c", 'source "$0"/launch/setup.sh && lmkd_setup tpu', str(checkout)],
        env={"PATH": str(checkout.parent / "bin")},
        check=True,
        capture_output=True,
    )
    assert installs(checkout) == [".", ".[dev]", ".[tpu]"]  # but no other extra
    (checkout / "pyproject.toml").write_text('[project]\nname = "changed"\n')
    run(checkout)
    assert installs(checkout) == [".", ".[dev]", ".[tpu]", "."]


def test_a_failed_installation_says_so_and_is_tried_again(checkout):
    fake_python(checkout, "python3", "3.11.9")
    run(checkout)
    python = checkout / ".venv" / "bin" / "python"
    works = python.read_text()
    python.write_text(works + '\n[ "$3" != install ] || exit 1\n')
    (checkout / "pyproject.toml").write_text('[project]\nname = "changed"\n')
    result = run(checkout)
    assert result.returncode == 1
    assert "error: the installation failed" in result.stderr
    python.write_text(works)
    assert run(checkout).returncode == 0
    assert len(installs(checkout)) == 3


def test_an_environment_of_an_old_python_is_named(checkout):
    fake_python(checkout, "python3", "3.11.9")
    run(checkout)
    python = checkout / ".venv" / "bin" / "python"
    python.write_text(python.read_text().replace("3.11.9 11", "3.10.2 10"))
    result = run(checkout)
    assert result.returncode == 1
    assert ".venv holds Python 3.10.2; 3.11 or newer is needed." in result.stderr
    assert f"rm -r '{checkout}/.venv'" in result.stderr


def test_a_broken_environment_is_named(checkout):
    fake_python(checkout, "python3", "3.11.9")
    run(checkout)
    executable(checkout / ".venv" / "bin" / "python", "exit 1")
    result = run(checkout)
    assert result.returncode == 1 and "is broken: its Python does not run." in result.stderr


def test_uv_is_used_where_it_is_found(checkout):
    log = checkout.parent / "calls"
    inner = f'[ "$1" = - ] && {{ echo 3.12.1 12 no /fake; exit; }}; echo "venv-python $*" >> "{log}"'
    executable(
        checkout.parent / "bin" / "uv",
        f"""echo "uv $*" >> "{log}"
if [ "$1" = venv ]; then
  mkdir -p .venv/bin
  printf '%s\\n' '#!{shutil.which("bash")}' '{inner}' > .venv/bin/python
  {shutil.which("chmod")} +x .venv/bin/python
fi""",
    )
    result = run(checkout)
    assert result.returncode == 0, result.stderr
    venv = checkout / ".venv"
    assert calls(checkout) == [
        f"uv venv --quiet --allow-existing --python >=3.11 {venv}",
        f"uv pip install --quiet --python {venv}/bin/python -e .",
        "venv-python -m lmkd.main --config=configs/quickstart.py",
    ]


def test_the_probe_describes_a_real_python():
    result = subprocess.run(
        ["bash", "-c", 'source launch/setup.sh; lmkd_probe "$0"', sys.executable],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    version, minor, makes_venv, path = result.stdout.split()
    info = sys.version_info
    assert version == f"{info.major}.{info.minor}.{info.micro}" and minor == str(info.minor)
    assert makes_venv in ("yes", "no") and Path(path).exists()


def test_the_ci_script_passes_shellcheck():
    if not shutil.which("shellcheck"):
        pytest.skip("shellcheck is not installed")
    result = subprocess.run(["shellcheck", "-x", ".ci/run"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def test_ci_finds_the_real_faces_beside_the_repository(checkout):
    shutil.copytree(ROOT / ".ci", checkout / ".ci")
    (checkout / "launch" / "test.sh").write_text('echo "data=${LMKD_REAL_DATA-unset} $*"\n')

    def ci(**env):
        path = str(checkout.parent / "bin")
        command = ["bash", str(checkout / ".ci" / "run"), "-x"]
        return subprocess.run(command, env={"PATH": path, **env}, capture_output=True, text=True, check=True).stdout

    assert ci() == "data=unset -x\n"
    (checkout.parent / "shared" / "data").mkdir(parents=True)
    assert ci() == f"data={checkout.parent}/shared/data -x\n"
    assert ci(LMKD_REAL_DATA="/mine") == "data=/mine -x\n"
