"""Choose what a cache gives up: what is used last goes first. This is arithmetic only."""

from __future__ import annotations

import heapq

# A use that is not planned is later than all planned ones.
UNKNOWN = 2**62


class Planned:
    """The entries of a cache of limited size, with the number of the use for which each is kept.

    If all uses are known and all entries have one size, no other choice fetches fewer entries (Belady, 1966).

    Args:
        most_bytes: Largest size of all entries together.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        self._sizes: dict[bytes, int] = {}
        self._uses: dict[bytes, int] = {}
        # Entries with the latest use first. An entry with another use than _uses says is out of date.
        self._latest: list[tuple[int, bytes]] = []

    def __contains__(self, key: bytes) -> bool:
        return key in self._sizes

    def __len__(self) -> int:
        return len(self._sizes)

    @property
    def held_bytes(self) -> int:
        return self._bytes

    def plan(self, key: bytes, use: int) -> None:
        """Note when an entry is used next. Unknown entries are ignored.

        Args:
            key: Key of the entry.
            use: Number of the use.
        """
        if key in self._sizes and self._uses[key] != use:
            self._uses[key] = use
            self._push(use, key)

    def room(self, size: int, use: int) -> list[bytes] | None:
        """Return the keys that must go for a new entry, or None if the entry is used later than all that would go.

        The keys that are returned are removed here.

        Args:
            size: Size of the new entry, in bytes.
            use: Number of its next use.
        """
        if size > self._most_bytes:
            return None
        gone: dict[bytes, int] = {}
        while self._bytes - sum(gone.values()) + size > self._most_bytes:
            latest = self._pop()
            if latest is None or latest[0] <= use:
                # It stays, and so do those before it.
                for key in [*gone, *([latest[1]] if latest else [])]:
                    self._push(self._uses[key], key)
                return None
            gone[latest[1]] = self._sizes[latest[1]]
        for key in gone:
            self.remove(key)
        return list(gone)

    def add(self, key: bytes, size: int, use: int = UNKNOWN) -> None:
        """Add an entry, for which there is room.

        Args:
            key: Key of the entry.
            size: Its size, in bytes.
            use: Number of its next use.
        """
        self.remove(key)
        self._sizes[key] = size
        self._uses[key] = use
        self._bytes += size
        self._push(use, key)

    def remove(self, key: bytes) -> None:
        """Remove an entry, if it is there."""
        self._bytes -= self._sizes.pop(key, 0)
        self._uses.pop(key, None)

    def worst(self) -> bytes | None:
        """Remove the entry that is used last, and return its key. None if there is none."""
        latest = self._pop()
        if latest is None:
            return None
        self.remove(latest[1])
        return latest[1]

    def _push(self, use: int, key: bytes) -> None:
        heapq.heappush(self._latest, (-use, key))
        if len(self._latest) > 2 * len(self._sizes) + 1000:
            self._latest = [(-use, key) for key, use in self._uses.items()]
            heapq.heapify(self._latest)

    def _pop(self) -> tuple[int, bytes] | None:
        """Return the entry with the latest use, and take it from the heap only."""
        while self._latest:
            use, key = heapq.heappop(self._latest)
            if self._uses.get(key) == -use:
                return -use, key
        return None
