"""The last words of a container, which Kubernetes shows at its pod, and Argo at the step of its workflow."""

from __future__ import annotations

import os
from contextlib import suppress

LOG = "/dev/termination-log"  # where Kubernetes reads them unless a pod says otherwise; there is such a file in a pod alone
MAX_BYTES = 4096  # that Kubernetes keeps


def leave_message(text: str) -> None:
    """Leaves why this container fails; nothing happens outside a pod.

    Args:
        text: one line.
    """
    with suppress(OSError):
        file = os.open(LOG, os.O_WRONLY | os.O_TRUNC)
        with open(file, "wb") as stream:
            stream.write(text.encode()[:MAX_BYTES])
