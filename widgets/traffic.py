"""How much may be sent to the browser, whatever ranks print."""

from __future__ import annotations

_BYTES_A_SECOND = 100_000
_BURST_BYTES = 80_000
_MESSAGE_BYTES = 700  # of what stands around a value


class Budget:
    """Allows so many bytes a second, and a burst after a pause.

    Args:
        now: the time, in seconds on any clock.

    Attributes:
        sent_bytes: how much has been allowed.
    """

    def __init__(self, now: float) -> None:
        self._left = float(_BURST_BYTES)
        self._at = now
        self.sent_bytes = 0

    def allows(self, text: str, now: float) -> bool:
        """Say whether a value may be sent now; it is taken for sent then."""
        self._left = min(_BURST_BYTES, self._left + (now - self._at) * _BYTES_A_SECOND)
        self._at = now
        size = len(text.encode()) + text.count("\n") + text.count('"') + _MESSAGE_BYTES
        if size > self._left:
            return False
        self._left -= size
        self.sent_bytes += size
        return True
