"""Errors a user can act on, and the wording they share."""

import difflib
from collections.abc import Iterable, Sequence


class UserError(ValueError):
    """Something the user gave is wrong. The doors print it without a traceback and exit with 2."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """Returns " Did you mean 'x'?" for the closest valid name, or ""."""
    close = difflib.get_close_matches(str(name), [str(v) for v in valid], n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""


def folder(flag: str, path: str) -> str:
    """Returns `path`, the value of `flag`, unless it is an address such as gs://bucket/run.

    Logs are appended to, workdirs are locked and whole files are renamed into place: a bucket offers none of it, but mounts.

    Raises:
      UserError: it is one; what is done instead.
    """
    if "://" in path:
        raise UserError(
            f"{flag}={path}: a folder is needed, not an address. Mount the bucket and give the folder in it (docs/scaling.md)."
        )
    return path


def unknown(kind: str, name: str, valid: Iterable[str], where: str = "") -> UserError:
    """Builds the error for a name that is not one of `valid`: what, where, what is allowed, the nearest."""
    valid = sorted(valid)
    place = f" ({where})" if where else ""
    return UserError(f"unknown {kind} {name!r}{place}.{nearest(name, valid)} Allowed: {', '.join(valid) or 'none'}.")


def report_together(problems: Sequence[str], heading: str, limit: int = 50) -> None:
    """Raises ONE `UserError` that lists every problem, or returns when there is none."""
    if not problems:
        return
    lines = [f"  - {p}" for p in problems[:limit]]
    if len(problems) > limit:
        lines.append(f"  ... and {len(problems) - limit} more")
    raise UserError("\n".join([f"{heading} ({len(problems)} problem{'s' * (len(problems) > 1)}):", *lines]))
