"""Files of a folder on the disk: replaced whole, never through links, written by one process at a time."""

import contextlib
import errno
import logging
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from shrinknet.core.errors import RunFolderError

try:
    import fcntl
except ImportError:  # another system than Unix: nothing there locks a folder
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

NO_LINKS = getattr(os, "O_NOFOLLOW", 0)

WHAT_TO_DO = {
    errno.ENOSPC: ("there is no space left on the disk", "Free some space, then resume the run."),
    errno.EDQUOT: ("there is no space left in your quota", "Free some space, then resume the run."),
    errno.EFBIG: ("the file would be larger than is allowed here", "Raise that limit, then resume the run."),
    errno.EACCES: ("nothing may be written there", "Change its permissions, or name another folder."),
    errno.EPERM: ("nothing may be written there", "Change its permissions, or name another folder."),
    errno.EROFS: ("the disk can only be read", "Name a folder on another disk."),
    errno.ENOENT: ("its folder is gone", "Make the run again; leave its folder where it is meanwhile."),
    errno.ENOTDIR: ("its folder is a file", "Name another folder."),
    errno.ELOOP: ("it is a link", "Remove the link, or name another folder."),
}
"""For each error of the system what it means and what to do."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the system says of a file that cannot be written into one sentence.

    Raises:
        RunFolderError: the disk is full, read-only or gone.
    """
    try:
        yield
    except OSError as error:
        what, do = WHAT_TO_DO.get(error.errno or 0, (error.strerror or str(error), "Look at the disk."))
        raise RunFolderError(
            f"out must be a folder that can be written to. Got {str(path)!r}, which cannot be written: {what}. {do}"
        ) from error


def sentence(error: OSError) -> str:
    """Return what the system says of a file, without its numbers.

    >>> sentence(FileNotFoundError(errno.ENOENT, "No such file or directory", "nowhere/list.csv"))
    "No such file or directory: 'nowhere/list.csv'. Look at the path and the disk."
    """
    where = "" if error.filename is None else f": {str(error.filename)!r}"
    return f"{error.strerror or error}{where}. Look at the path and the disk."


def write_whole(root: Path, name: str, content: bytes) -> None:
    """Replace a file below a folder whole: a reader sees the old one or the new one, also after a kill.

    Raises:
        RunFolderError: it cannot be written, or lies behind a link.
    """
    target = _place(root, name)
    beside = target.with_name(f".{target.name}.part")
    with writing(target):
        try:
            beside.unlink(missing_ok=True)  # left by a kill, or put there by somebody else
            with _opened(beside, os.O_CREAT | os.O_EXCL) as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, target)
        except OSError:
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)
            raise


def grow(root: Path, name: str, content: bytes) -> None:
    """Add to the end of a file below a folder, in one synced write.

    Raises:
        RunFolderError: it cannot be written, or lies behind a link.
    """
    target = _place(root, name)
    with writing(target), _opened(target, os.O_CREAT | os.O_APPEND) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _opened(path: Path, flags: int) -> IO[bytes]:
    return os.fdopen(os.open(path, os.O_WRONLY | NO_LINKS | flags, 0o666), "wb")


def _place(root: Path, name: str) -> Path:
    """The path of a file below a folder; the folders on the way are made, and none of them is a link."""
    target, place = root / name, root
    for part in Path(name).parts[:-1]:
        place = place / part
        with writing(target):
            if place.is_symlink():
                raise OSError(errno.ELOOP, "a link")
            place.mkdir(exist_ok=True)
    return target


def is_left_over(path: Path) -> bool:
    """Whether a file is what a kill leaves of one that was being written."""
    return path.name.startswith(".") and path.name.endswith(".part")


def odd_below(root: Path) -> list[str]:
    """Return the names of what is neither a file nor a folder below a folder: links, pipes, devices."""
    return sorted(
        os.path.relpath(os.path.join(folder, name), root)
        for folder, folders, names in os.walk(root)
        for name in (*folders, *names)
        if not _is_plain(os.lstat(os.path.join(folder, name)).st_mode)
    )


def _is_plain(mode: int) -> bool:
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode)


@contextmanager
def held(root: Path) -> Iterator[None]:
    """Hold a folder against other processes, and other threads, that would write the same run.

    The lock lies on the folder itself: nothing is left of it after a kill.

    Raises:
        RunFolderError: another one holds it.
    """
    with writing(root):
        descriptor = os.open(root, os.O_RDONLY)
    try:
        _lock(descriptor, root)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, root: Path) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise RunFolderError(
            f"out must be a folder that no other process writes to. Got {str(root)!r}, in which a run is under way. "
            f"Wait until it has ended, or name another folder."
        ) from error
    except OSError as error:  # some network disks know no locks
        log.warning("%s cannot be locked (%s): see to it that no second run writes there.", root, error.strerror)
