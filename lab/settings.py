"""What a lab can be told: times, sizes, credentials."""

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass
class Settings:
    """One lab's settings; seconds may be shortened by tests, the defaults are the server's own.

    Attributes:
        session_idle_seconds: A session ends this long after its last use.
        wrong_password_seconds: How long a wrong password waits for its answer.
        conflict_seconds: How long an operation waits for a conflicting one before it fails.
        data_destroy_seconds: How long `VDI.data_destroy` waits for the disk's VBDs to vanish.
        detach_seconds: How long dom0's VBD stays after a transfer or an NBD connection ended.
        coalesce_seconds: How long the storage takes to fold a hidden parent into its only child.
        operation_seconds: How long a power change or a snapshot takes at least.
        sr_bytes: Physical size of the default SR.
        old_host: Behave like release 8.0: `VM.snapshot` knows no `ignore_vdis`, running VMs can be
            frozen with `VM.snapshot_with_quiesce`, and a drive without a disk has an empty text.
        guest_tag: VMs with a tag that begins like this have a guest with an SSH server.
        now: Tells the time, aware.
        monotonic: Tells time spent, in seconds.
    """

    username: str = "root"
    password: str = field(default_factory=lambda: secrets.token_urlsafe(12), repr=False)
    session_idle_seconds: float = 24 * 3600.0
    wrong_password_seconds: float = 5.0
    conflict_seconds: float = 2 * 3600.0
    data_destroy_seconds: float = 4.0
    detach_seconds: float = 0.2
    coalesce_seconds: float = 0.5
    operation_seconds: float = 0.0
    sr_bytes: int = 64 << 40
    old_host: bool = False
    guest_tag: str = "abd"
    now: Callable[[], datetime] = _now
    monotonic: Callable[[], float] = time.monotonic
