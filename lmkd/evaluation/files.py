"""Files that are either whole or not there, and folders that one run at a time writes to."""

import contextlib
import fcntl
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from lmkd.core.errors import UserError

CLAIM = ".running"


@contextlib.contextmanager
def whole_path(path: str | os.PathLike) -> Iterator[Path]:
    """Gives the path of an empty file, of the same suffix, that takes the name `path` only when the block ends well.

    For writers that want a path of their own; folders are made as needed. An error inside the block leaves an earlier file
    of that name as it was, and nothing half-written behind.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Same folder as the target: a rename is atomic within one file system only.
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=f".tmp{path.suffix}")
    os.close(descriptor)
    try:
        yield Path(temporary)
        # mkstemp makes files that only the owner may read; give the mode that open() would have given.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


@contextlib.contextmanager
def whole_file(path: str | os.PathLike) -> Iterator[IO[str]]:
    """Opens a text file (UTF-8) that takes its name only when the block ends well, as `whole_path` says."""
    with whole_path(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        yield file


def is_claimed(folder: Path) -> bool:
    """Whether a run writes, or wrote, to a folder."""
    return (folder / CLAIM).is_file()


@contextlib.contextmanager
def claimed(folder: Path, *, command: str = "") -> Iterator[None]:
    """Keeps other runs out of a folder while the block runs; the claim ends with the process, however it ends.

    Raises:
      UserError: another run holds it; the message names that run.
    """
    path = folder / CLAIM
    path.touch()  # on a mounted bucket other hosts see a new file only once it has been closed
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise UserError(
                f"{folder} is in use by another run: {file.read() or 'one that has just begun'}. Wait for it, stop it, or take "
                "another --workdir."
            ) from error
        except OSError:
            pass  # a file system without locks (some network ones): nobody is kept out
        file.truncate(0)
        began = time.strftime("%Y-%m-%d %H:%M:%S")
        file.write(f"process {os.getpid()} on {socket.gethostname()}, since {began}" + (f", {command}" if command else ""))
        file.flush()
        yield
