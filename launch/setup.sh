# shellcheck shell=bash
# Sourced by the scripts beside it: makes .venv in the repository's root and installs lmkd into it, once.
# Bash 3.2 and up, so that it runs on macOS as it is.
#
#   lmkd_setup ""       installs lmkd
#   lmkd_setup "dev"    installs lmkd[dev]; or another extra
#
# Afterwards the working directory is the root, and $LMKD_VENV/bin/python has lmkd. PYTHON=/path/to/python chooses the
# interpreter of a new environment.

LMKD_ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
LMKD_VENV=$LMKD_ROOT/.venv

lmkd_say() { printf '== %s\n' "$*"; }

lmkd_die() {
  printf 'error: %s\n' "$1" >&2
  shift
  [ $# -eq 0 ] || printf '       %s\n' "$@" >&2
  exit 1
}

# Prints "VERSION MINOR VENV PATH" of an interpreter, as in "3.11.7 11 yes /usr/bin/python3.11"; fails where it does not
# run (a pyenv shim without a version behind it) or is no Python 3.
lmkd_probe() {
  "$1" - 2>/dev/null <<'PYTHON'
import sys
if sys.version_info[0] != 3:
    sys.exit(1)
try:
    import ensurepip
    import venv
    makes_venv = "yes"
except ImportError:
    makes_venv = "no"
print("%d.%d.%d" % sys.version_info[:3], sys.version_info[1], makes_venv, sys.executable)
PYTHON
}

# Sets LMKD_PYTHON to the newest Python from 3.11 on that can make environments, or says what is missing.
lmkd_find_python() {
  local name version minor makes_venv path best=0 found="" without_venv="" without_venv_minor=""
  set -- python3 python3.14 python3.13 python3.12 python3.11
  [ -z "${PYTHON:-}" ] || set -- "$PYTHON"
  for name in "$@"; do
    read -r version minor makes_venv path <<<"$(lmkd_probe "$name")"
    [ -n "$version" ] || continue
    found="$found$name is $version; "
    [ "$minor" -ge 11 ] || continue
    if [ "$makes_venv" = no ]; then
      without_venv=$path without_venv_minor=$minor
    elif [ "$minor" -gt "$best" ]; then
      best=$minor LMKD_PYTHON=$path
    fi
  done
  [ "$best" -eq 0 ] || return 0
  if [ -n "$without_venv" ]; then
    lmkd_die "$without_venv cannot make virtual environments: its modules venv and ensurepip are not installed." \
      "On Debian and Ubuntu: sudo apt-get install python3.$without_venv_minor-venv" \
      "Or install uv (https://docs.astral.sh/uv), which needs neither."
  elif [ -n "$found" ]; then
    lmkd_die "Python 3.11 or newer is needed; found: ${found%; }." \
      "Install one, or name one: PYTHON=/path/to/python3.12 bash $0" \
      "Or install uv (https://docs.astral.sh/uv), which fetches a Python of its own."
  fi
  lmkd_die "Python 3.11 or newer is needed; no working python3 was found${PYTHON:+ under PYTHON=$PYTHON}." \
    "On Debian and Ubuntu: sudo apt-get install python3 python3-venv" \
    "Or install uv (https://docs.astral.sh/uv), which fetches a Python of its own."
}

lmkd_make_venv() {
  if [ -e "$LMKD_VENV/bin/python" ]; then
    local version minor rest
    read -r version minor rest <<<"$(lmkd_probe "$LMKD_VENV/bin/python")"
    [ -n "$version" ] || lmkd_die "$LMKD_VENV is broken: its Python does not run." "Remove it and try again: rm -r '$LMKD_VENV'"
    [ "$minor" -ge 11 ] || lmkd_die "$LMKD_VENV holds Python $version; 3.11 or newer is needed." \
      "Remove it and try again: rm -r '$LMKD_VENV'"
  elif command -v uv >/dev/null; then
    lmkd_say "making $LMKD_VENV with uv"
    uv venv --quiet --allow-existing --python "${PYTHON:->=3.11}" "$LMKD_VENV" \
      || lmkd_die "uv could not make $LMKD_VENV; its message stands above."
  else
    lmkd_find_python
    lmkd_say "making $LMKD_VENV with $LMKD_PYTHON"
    "$LMKD_PYTHON" -m venv "$LMKD_VENV" || lmkd_die "$LMKD_PYTHON could not make $LMKD_VENV; its message stands above."
  fi
}

lmkd_install() {
  local extra=$1 target=. stamp=$LMKD_VENV/.lmkd_installed state
  # What an editable install depends on: where the checkout lies and what pyproject.toml asks for.
  state="$LMKD_ROOT $(cksum <"$LMKD_ROOT/pyproject.toml")"
  if [ -f "$stamp" ] && [ "$(head -n 1 "$stamp")" = "$state" ]; then
    # A second line names the extra; every one includes the plain installation, none includes another.
    case $extra in "" | "$(sed -n 2p "$stamp")") return 0 ;; esac
  fi
  [ -z "$extra" ] || target=".[$extra]"
  lmkd_say "installing lmkd${extra:+[$extra]} (a few minutes the first time)"
  rm -f "$stamp"
  if command -v uv >/dev/null; then
    uv pip install --quiet --python "$LMKD_VENV/bin/python" -e "$target"
  else
    "$LMKD_VENV/bin/python" -m pip --version >/dev/null 2>&1 || "$LMKD_VENV/bin/python" -m ensurepip >/dev/null
    "$LMKD_VENV/bin/python" -m pip install --quiet --disable-pip-version-check -e "$target"
  fi || lmkd_die "the installation failed; the message stands above." "It needs the Python package index, or a mirror set up for pip or uv."
  printf '%s\n%s\n' "$state" "$extra" >"$stamp"
}

lmkd_setup() {
  cd -- "$LMKD_ROOT" || exit
  lmkd_make_venv
  lmkd_install "$1"
}
