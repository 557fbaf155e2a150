"""Identify views in the state of a loader, so that a run resumes only with the views that it had."""

from __future__ import annotations

import hashlib
import re

from dali_pipelines.views.params import ViewParams

# States from before views had these fields do not name them. A view with the value 0 is the same as one without them.
_LATER = re.compile(r", (flip_v_p|rot90_p)=0(\.0)?(?=[,)])")


def views_identity(views: tuple[ViewParams, ...]) -> str:
    """Return a text that differs if the parameters of the views differ.

    Args:
        views: Parameters of each view.
    """
    return hashlib.sha256(_LATER.sub("", repr(views)).encode()).hexdigest()[:16]
