"""The folder that `pack` writes: shards, their indexes, labels.csv, classes.txt, bad.csv, and .pack/, its state."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bt_plugin.errors import FileError, UserError, file_error
from bt_plugin.runs.atomic_file import check_output, sync, write_atomically, write_csv
from bt_plugin.runs.directory import RunLock
from bt_plugin.tools.packed_shard import ShardWriter, images_of_index
from dali_pipelines.sources import ImageSource
from dali_pipelines.sources.class_names import CLASS_NAMES, lines_of

KEY = "OUT"
LABELS = "labels.csv"
BAD = "bad.csv"
_STATE_FOLDER = ".pack"
_STATE = "state.json"


class ShardRecord(NamedTuple):
    """What is known of a finished shard without reading it.

    Args:
        size_bytes: Size of the tar file.
        index_sha256: Hash of its index.
        left_out: Place and reason of each image that was left out.
    """

    size_bytes: int
    index_sha256: str
    left_out: list[tuple[str, str]]


class PackFolder:
    """A locked folder of shards. A shard is finished if its tar file exists, because that file comes last.

    Args:
        path: The folder.
        n_shards: Number of shards.
        state: What the shards depend on, by the words of messages.
        classes: Names of the classes; empty without labels.

    Raises:
        UserError: If the folder has other files, was begun with another state, or another process writes there.
        FileError: If the folder cannot be written.
    """

    def __init__(self, path: Path, n_shards: int, state: Mapping[str, Any], classes: tuple[str, ...]) -> None:
        self._path = path
        self.n_shards = n_shards
        self._digits = max(5, len(str(n_shards - 1)))
        self._state_folder = path / _STATE_FOLDER
        if path.exists() and not path.is_dir():
            raise FileError(f"{KEY}: {path} is a file. Name a folder")
        check_output(self._state_folder / _STATE, KEY)
        self._check_files(of_any_run=True)
        try:
            self._state_folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise file_error(error, path, KEY) from error
        self._lock = RunLock(self._state_folder, KEY)
        try:
            self._claim(state, classes)
            self._check_files(of_any_run=False)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Release the lock."""
        self._lock.release()

    def tar(self, shard: int) -> Path:
        """Return the path of a shard."""
        return self._path / f"{self._name(shard)}.tar"

    def partial(self, shard: int) -> Path:
        """Return the path of a shard that is being written."""
        return self._state_folder / f"{self._name(shard)}.tar.partial"

    def record(self, shard: int) -> ShardRecord | None:
        """Return the record of a finished shard, or None if the shard must be written.

        Raises:
            FileError: If the shard or its index is not what was written.
        """
        tar = self.tar(shard)
        if not os.path.lexists(tar):
            return None
        remedy = f"Remove {tar.name}, then rerun the same command, which writes it again"
        try:
            fields = json.loads(self._record(shard).read_text())
            record = ShardRecord(**{**fields, "left_out": [(place, reason) for place, reason in fields["left_out"]]})
            index_sha256 = _sha256(self._index(shard).read_bytes())
            size_bytes = tar.stat().st_size
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise FileError(
                f"{KEY}: {tar} is there, but its index or its record cannot be read: {error}. {remedy}"
            ) from error
        if size_bytes != record.size_bytes:
            raise FileError(f"{KEY}: {tar} has {size_bytes} bytes, and was written with {record.size_bytes}. {remedy}")
        if index_sha256 != record.index_sha256:
            raise FileError(f"{KEY}: {self._index(shard)} was changed after it was written. {remedy}")
        return record

    def publish(self, shard: int, writer: ShardWriter, left_out: list[tuple[str, str]]) -> None:
        """Complete a shard on the disk, verify it, and give it its final name.

        Args:
            shard: Number of the shard.
            writer: Writer with all images of the shard.
            left_out: Place and reason of each image that was left out.

        Raises:
            FileError: If the shard cannot be written, or was not written correctly.
        """
        tar = self.tar(shard)
        try:
            self._publish(shard, writer, left_out)
        except BaseException as error:
            # It needs the space that the next attempt may need.
            writer.abandon()
            if isinstance(error, OSError):
                raise file_error(error, tar, KEY) from error
            raise

    def write_tables(self, source: ImageSource) -> None:
        """Write bad.csv, if images were left out, and labels.csv.

        Args:
            source: Source of the images.
        """
        bad = [each for shard in range(self.n_shards) if (record := self.record(shard)) for each in record.left_out]
        if bad:
            write_csv(self._path / BAD, ("place", "reason"), bad)
        else:
            (self._path / BAD).unlink(missing_ok=True)
        labels = ("label",) if source.has_labels else ()
        write_csv(self._path / LABELS, ("name", *labels, "source"), self._rows(source))

    def has_tables(self) -> bool:
        """Return whether labels.csv, the last file, is there."""
        return (self._path / LABELS).exists()

    def _publish(self, shard: int, writer: ShardWriter, left_out: list[tuple[str, str]]) -> None:
        tar = self.tar(shard)
        writer.close()
        writer.verify()
        index = writer.index()
        write_atomically(self._index(shard), index)
        record = ShardRecord(writer.path.stat().st_size, _sha256(index.encode()), left_out)
        write_atomically(self._record(shard), json.dumps(record._asdict(), indent=1))
        if os.path.lexists(tar):
            raise FileError(f"{KEY}: {tar} exists, and is not overwritten. Another program has made it; remove it")
        os.rename(writer.path, tar)
        sync(self._path)

    def _rows(self, source: ImageSource) -> Iterator[tuple[str, ...]]:
        for shard in range(self.n_shards):
            for position, name in images_of_index(self._index(shard)):
                label = (source.classes[source.labels[position]],) if source.has_labels else ()
                yield (f"{self.tar(shard).name}/{name}", *label, source.names[position])

    def _check_files(self, *, of_any_run: bool) -> None:
        """Raise if the folder has files that `pack` did not write.

        Args:
            of_any_run: Whether the shards of a run with another number of shards are accepted.
        """
        if not self._path.is_dir():
            return
        own: set[str] = set()
        is_own = (self._state_folder / _STATE).exists()
        if is_own:
            shards = {self._name(shard) for shard in range(self.n_shards)}
            own = {CLASS_NAMES, LABELS, BAD, *(f"{name}{suffix}" for name in shards for suffix in (".tar", ".idx"))}
        try:
            foreign = sorted(name for name in os.listdir(self._path) if name[0] != "." and name not in own)
        except OSError as error:
            raise file_error(error, self._path, KEY) from error
        if is_own and of_any_run:
            foreign = [name for name in foreign if not name.startswith("shard-")]
        if foreign:
            raise UserError(
                f"{KEY}: {self._path} has files that are not those of this command, such as {foreign[0]}. Name a new or"
                " empty folder"
            )

    def _claim(self, state: Mapping[str, Any], classes: tuple[str, ...]) -> None:
        """Compare the state with that of an earlier run, or write it, and classes.txt."""
        path = self._state_folder / _STATE
        lines = "".join(f"{name}\n" for name in classes).encode("utf-8", "surrogateescape")
        state = {**state, "the classes of SOURCE": _sha256(lines)[:16]}
        if classes and (lines_of(lines) != classes or len(set(classes)) < len(classes)):
            odd = next((name for name in classes if "\n" in name or classes.count(name) > 1), classes[0])
            raise UserError(f"SOURCE: the class {odd!r} cannot be a line of {CLASS_NAMES} of its own. Rename it")
        if any(self._path.glob("shard-*.tar")):
            self._compare(path, state)
        elif path.exists():
            # Nothing is finished, so other images or options may begin.
            for each in (*self._path.glob("shard-*.idx"), *(self._path / name for name in (LABELS, BAD, CLASS_NAMES))):
                each.unlink(missing_ok=True)
        for each in self._state_folder.glob("*.partial"):
            each.unlink()
        write_atomically(path, json.dumps(state, indent=1))
        names = self._path / CLASS_NAMES
        if not classes:
            return
        if not names.exists():
            write_atomically(names, lines)
        if names.read_bytes() != lines:
            raise UserError(f"{KEY}: {names} was changed after it was written. Remove it, then rerun the same command")

    def _compare(self, path: Path, state: Mapping[str, Any]) -> None:
        try:
            before = dict(json.loads(path.read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise FileError(f"{path}: cannot be read: {error}. Name a new folder for the shards") from error
        changed = [
            f"{key} was {_shown(before.get(key))} and is now {_shown(state.get(key))}"
            for key in sorted({*before, *state})
            if before.get(key) != state.get(key)
        ]
        if changed:
            raise UserError(
                f"{KEY}: {self._path} has shards of other images or options: {'; '.join(changed)}. Restore them"
                " to resume, or name a new folder"
            )

    def _name(self, shard: int) -> str:
        return f"shard-{shard:0{self._digits}}"

    def _index(self, shard: int) -> Path:
        return self._path / f"{self._name(shard)}.idx"

    def _record(self, shard: int) -> Path:
        return self._state_folder / f"{self._name(shard)}.json"


def _shown(value: Any) -> str:
    return "not given" if value in (None, False) else "given" if value is True else str(value)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
