"""Download a public data set, and write the files that a recipe reads."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from urllib.error import URLError

from bt_plugin.data.public_data import PUBLIC_DATA, Archive, PublicData
from bt_plugin.errors import FileError, UserError, file_error
from bt_plugin.runs.atomic_file import check_output
from bt_plugin.runs.directory import RunLock

# Names the data set in its folder, with its source and its terms.
ABOUT = "ABOUT.txt"
KEY = "DIR"
# torchvision itself waits for a silent server for ever.
_SILENT_S = 60.0
_OF_NETWORK = (URLError, ConnectionError, TimeoutError, ssl.SSLError, HTTPException)


def get_data(name: str, folder: str | Path, *, archive: str | Path | None = None) -> bool:
    """Write a public data set into a new folder. torchvision downloads it and compares its checksum.

    The folder appears only when it is complete. Until then all is in the hidden folder .NAME.partial next to it. After
    an error, a file that was downloaded completely stays there, and the next call uses it.

    Args:
        name: A name in PUBLIC_DATA, such as cifar10.
        folder: Folder to write. It must not exist, be empty, or contain this data set.
        archive: File of the data set that was downloaded before. It is not changed. Default: it is downloaded.

    Returns:
        Whether the data set was written. False if the folder already contains it.

    Raises:
        UserError: If there is no such data set, the folder contains other files, the disk is too small, or the file
            cannot be downloaded or is damaged.
        FileError: If the files cannot be read or written.

    Examples:
        >>> get_data("cifar10", "data/cifar10")
        True
    """
    folder = _resolved(Path(folder))
    if name not in PUBLIC_DATA:
        raise UserError(f"NAME: {name} is not allowed; it must be one of {', '.join(PUBLIC_DATA)}")
    data = PUBLIC_DATA[name]
    if _is_there(data, folder):
        return False
    check_output(folder / "train", KEY)
    if archive is not None:
        _check_given(Path(archive), data)
    _check_space(data, folder, downloads=archive is None)
    with _partial_folder(folder) as partial:
        if archive is None:
            archive = _downloaded(data.archive(), partial)
        try:
            _write(data, Path(archive), partial / "work", folder)
        except OSError as error:
            kept = f". The downloaded file is kept: {archive}" if Path(archive).parent == partial else ""
            raise FileError(f"{file_error(error, folder)}{kept}") from error
        shutil.rmtree(partial, ignore_errors=True)
    return True


def about(data: PublicData) -> str:
    """Return what ABOUT.txt says of a data set: its source, its checksum and its terms.

    Args:
        data: The data set, of PUBLIC_DATA.
    """
    url, _, md5 = data.archive()
    return f"{data.title}: {data.page}\nSource: {url}, md5 {md5}\nTerms: {data.terms}\n"


def _resolved(folder: Path) -> Path:
    try:
        return folder.resolve()
    except RuntimeError as error:  # Python up to 3.12. Newer versions leave it to the first access.
        raise UserError(f"{KEY}: {folder} is a symbolic link to itself; name another folder") from error


def _is_there(data: PublicData, folder: Path) -> bool:
    try:
        found = {entry.name for entry in os.scandir(folder)}
        described = (folder / ABOUT).read_text(encoding="utf-8", errors="replace") if ABOUT in found else ""
    except FileNotFoundError:
        return False
    except OSError as error:
        raise file_error(error, folder, KEY) from error
    if found >= data.contents | {ABOUT} and data.archive().md5 in described:
        return True
    if found or folder.is_mount():
        reason = "contains files that are not" if found else "is a whole disk, which cannot be replaced by"
        raise UserError(
            f"{KEY}: {folder} {reason} {data.title} as `get` writes it; name a folder that does not exist yet"
        )
    return False


def _check_given(archive: Path, data: PublicData) -> None:
    from torchvision.datasets.utils import check_integrity

    url, _, md5 = data.archive()
    try:
        with open(archive, "rb"):
            is_whole = check_integrity(archive, md5)
    except OSError as error:
        raise file_error(error, archive, "--archive") from error
    if not is_whole:
        raise UserError(
            f"--archive: {archive} is not the file of {data.title}, or it is damaged: its MD5 checksum must be {md5}."
            f" Download {url} again"
        )


def _check_space(data: PublicData, folder: Path, *, downloads: bool) -> None:
    existing = next(parent for parent in folder.parents if parent.is_dir())
    free_gib = shutil.disk_usage(existing).free / 2**30
    needed_gib = data.written_gib + (data.archive_gib if downloads else 0.0)
    if free_gib < needed_gib:
        raise UserError(
            f"{KEY}: {folder} needs {needed_gib:.3g} GiB while it is written, and {free_gib:.3g} GiB are free. Free"
            " disk space, or name a folder on another disk"
        )


@contextmanager
def _partial_folder(folder: Path) -> Iterator[Path]:
    """Yield a hidden folder next to the folder. No other process uses it. It goes if no file was downloaded."""
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        partial.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise file_error(error, folder, KEY) from error
    lock = RunLock(partial, KEY)
    try:
        yield partial
    finally:
        shutil.rmtree(partial / "work", ignore_errors=True)
        lock.release()


def _downloaded(archive: Archive, partial: Path) -> Path:
    """Download an archive, unless the folder has it, and return its path. Remove the folder after an error."""
    from torchvision.datasets.utils import download_url

    url, name, md5 = archive
    by_hand = f"download {url} on another machine, and add --archive FILE to the command"
    is_done = False
    default_s = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_SILENT_S)
    try:
        download_url(url, partial, name, md5)
        is_done = True
    except _OF_NETWORK as error:
        reason = getattr(error, "reason", None) or error
        raise UserError(f"{url}: cannot be downloaded: {reason}. Check the network, or {by_hand}") from error
    except OSError as error:
        raise file_error(error, partial) from error
    except RuntimeError as error:  # torchvision's answer to another checksum
        raise UserError(
            f"{url}: was downloaded, but is damaged: its MD5 checksum must be {md5}. Rerun the same command, or"
            f" {by_hand}"
        ) from error
    finally:
        socket.setdefaulttimeout(default_s)
        if not is_done:
            shutil.rmtree(partial, ignore_errors=True)
    return partial / name


def _write(data: PublicData, archive: Path, work: Path, folder: Path) -> None:
    shutil.rmtree(work, ignore_errors=True)
    output = work / "output"
    output.mkdir(parents=True)
    # torchvision finds the file there, and does not download it.
    (work / data.archive().name).symlink_to(archive.absolute())
    data.write(work, output)
    (output / ABOUT).write_text(about(data), encoding="utf-8")
    if folder.exists():
        folder.rmdir()
    os.replace(output, folder)
