"""Show the progress of a run: a bar on a terminal or in a notebook, otherwise a log line every 30 s."""

from __future__ import annotations

import logging
import os
import sys
import time

from tqdm.auto import tqdm

logger = logging.getLogger(__name__)

_BETWEEN_LINES_S = 30.0


class ProgressBar:
    """A progress bar of the steps of a run.

    Args:
        total: Number of steps of the whole run.
        done: Number of steps that were done before.
        shown: Whether this rank shows the progress.
    """

    def __init__(self, total: int, done: int, shown: bool) -> None:
        as_bar = sys.stderr.isatty() or _in_notebook()
        self._bar = tqdm(total=total, initial=done, desc="pretrain", unit="step", disable=not (shown and as_bar))
        self._in_lines = shown and not as_bar
        self._total, self._before, self._done = total, done, done
        self._started_s = time.monotonic()
        self._told_s = -_BETWEEN_LINES_S

    def step_done(self) -> None:
        """Count one more step."""
        self._bar.update()
        self._done += 1

    def tell(self, text: str) -> None:
        """Set the text behind the bar, or in the next log line."""
        self._bar.set_postfix_str(text, refresh=False)
        now_s = time.monotonic()
        is_due = now_s - self._told_s >= _BETWEEN_LINES_S or self._done == self._total
        if self._in_lines and is_due:
            self._told_s = now_s
            logger.info("step %d of %d, %s: %s", self._done, self._total, self._times(now_s), text)

    def close(self) -> None:
        """Leave the bar on the screen as it is."""
        self._bar.close()

    def _times(self, now_s: float) -> str:
        gone_s = now_s - self._started_s
        left_s = gone_s * (self._total - self._done) / max(1, self._done - self._before)
        return f"{tqdm.format_interval(gone_s)} gone, {tqdm.format_interval(left_s)} left"


def _in_notebook() -> bool:
    """Return whether this process is the kernel of a notebook. A launched rank only shares its output."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and "IPKernelApp" in shell.config and "RANK" not in os.environ
