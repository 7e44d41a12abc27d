# shellcheck shell=bash
# Sourced by the scripts that start runs on several processes: variables checked together, --help from the script's own head,
# dry runs. Bash 3.2 and up. Needs setup.sh.
#
#   lmkd_read "$@"                             sorts the arguments into lmkd_words and, after --, lmkd_rest
#   lmkd_subcommand WORD ...                   the first of lmkd_words is one of these; it becomes $subcommand
#   lmkd_at_most COUNT                         there are no more lmkd_words than that
#   lmkd_need NAME 'what it is' 'an example'   NAME must have a value
#   lmkd_need_whole NAME 'what it is' 'an example'   and be a whole number, 1 or more
#   lmkd_whole NAME LEAST                      NAME must be a whole number, LEAST or more
#   lmkd_choice NAME WORD ...                  NAME must be one of the words
#   lmkd_folder NAME                           NAME must not be an address such as gs://...
#   lmkd_run_flags "$@"                        there are flags of lmkd.main, none of them one that the script sets
#   lmkd_wrong 'text'                          something else is wrong
#   lmkd_checked                               says all that is wrong at once and leaves with status 2, or returns
#   lmkd_run COMMAND ...                       runs a command; prints it instead where LMKD_DRY_RUN is not empty

LMKD_DRY_RUN=""
lmkd_faults=() lmkd_words=() lmkd_rest=() subcommand=""

lmkd_read() {
  while [ $# -gt 0 ]; do
    case $1 in
      --) shift && break ;;
      --help | -h) lmkd_help "$0" && exit ;;
      --dry_run) LMKD_DRY_RUN=yes ;;
      -*) lmkd_usage "unknown flag $1; flags of the run come after --" ;;
      *) lmkd_words+=("$1") ;;
    esac
    shift
  done
  # shellcheck disable=SC2034 # the scripts read it
  lmkd_rest=("$@")
}

lmkd_subcommand() {
  subcommand=${lmkd_words[0]:-nothing}
  case " $* " in
    *" $subcommand "*) ;;
    *) lmkd_usage "$subcommand is no subcommand; $(lmkd_listed "$@") are" ;;
  esac
}

lmkd_at_most() { [ ${#lmkd_words[@]} -le "$1" ] || lmkd_usage "unexpected ${lmkd_words[$1]}; flags of the run come after --"; }

lmkd_wrong() { lmkd_faults+=("$1"); }

lmkd_need() {
  [ -n "${!1:-}" ] || lmkd_wrong "$1 is not set: $2, such as $1=$(lmkd_quoted "$3")"
}

lmkd_whole() {
  case ${!1:-} in
    '' | *[!0-9]*) lmkd_wrong "$1=$(lmkd_quoted "${!1:-}"): a whole number, $2 or more, is needed" ;;
    *) [ "${!1}" -ge "$2" ] || lmkd_wrong "$1=${!1}: $2 or more is needed" ;;
  esac
}

lmkd_need_whole() {
  if [ -n "${!1:-}" ]; then lmkd_whole "$1" 1; else lmkd_need "$@"; fi
}

# lmkd.main says the same.
lmkd_folder() {
  case ${!1:-} in *://*)
    lmkd_wrong "$1=$(lmkd_quoted "${!1}"): a folder is needed, not an address. Mount the bucket and give the folder in it (docs/scaling.md)"
    ;;
  esac
}

lmkd_choice() {
  local name=$1 word
  shift
  for word in "$@"; do [ "${!name:-}" != "$word" ] || return 0; done
  lmkd_wrong "$name=$(lmkd_quoted "${!name:-}"): one of $(lmkd_listed "$@") is needed"
}

lmkd_checked() {
  [ ${#lmkd_faults[@]} -ne 0 ] || return 0
  {
    printf 'error: nothing was started.\n'
    printf '  - %s\n' "${lmkd_faults[@]}"
    printf '%s --help explains every variable.\n' "$0"
  } >&2
  exit 2
}

lmkd_usage() {
  printf 'error: %s\n%s --help explains.\n' "$1" "$0" >&2
  exit 2
}

# "a, b, c"
lmkd_listed() {
  local all
  printf -v all '%s, ' "$@"
  printf '%s' "${all%, }"
}

# Words as a shell would read them back: bare where that is safe, in single quotes otherwise.
lmkd_quoted() {
  local word line="" safe='^[A-Za-z0-9_@%+=:,./~-]+$' closed="'\\''"
  for word in "$@"; do
    [[ $word =~ $safe && $word != '~'* ]] || word="'${word//\'/$closed}'"
    line+=" $word"
  done
  printf '%s' "${line# }"
}

lmkd_run() {
  if [ -n "$LMKD_DRY_RUN" ]; then
    printf '%s\n' "$(lmkd_quoted "$@")"
  else
    printf '+ %s\n' "$(lmkd_quoted "$@")" >&2
    "$@"
  fi
}

# A comment of the dry run; `#` keeps it out of what is pasted.
lmkd_note() { [ -z "$LMKD_DRY_RUN" ] || printf '# %s\n' "$1"; }

# The comment at the head of a script, which explains it.
lmkd_help() { awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "$1"; }

# Flags that a script sets itself are refused among those of the run: absl would silently take the last one.
lmkd_reserved() {
  local flags=$1 word name
  shift
  for word in "$@"; do
    name=${word#-}
    name=${name#-}
    name=${name%%=*}
    case $word in -*) case " $flags " in *" $name "*) lmkd_wrong "--$name: this script sets it" ;; esac ;; esac
  done
}

lmkd_run_flags() {
  [ $# -gt 0 ] || lmkd_wrong "nothing to run: flags of lmkd.main come after --, such as -- --config=configs/wflw.py"
  lmkd_reserved "coordinator processes process workdir data_dir" "$@"
}

# The Python that runs lmkd: $PYTHON, the environment in the repository's root, or the one that is active.
lmkd_python() {
  if [ -n "${PYTHON:-}" ]; then
    printf '%s' "$PYTHON"
  elif [ -x "$LMKD_VENV/bin/python" ]; then
    printf '%s' "$LMKD_VENV/bin/python"
  else
    command -v python3 || printf 'python'
  fi
}
