"""Connections of the server that wait for nobody for ever: what is not asked or not taken in time is let go."""

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

# Seconds for a request to come in whole, and for its answer to be made and taken.
REQUEST_SECONDS, ANSWER_SECONDS = 10, 120
# Browsers open six each.
MOST_CONNECTIONS = 256


class Connection(H11Protocol):
    """A connection; past the most there may be, the one that has been silent longest makes room for a new one."""

    _timer: asyncio.TimerHandle | None = None
    _since = 0.0

    @property
    def is_answering(self) -> bool:
        """Whether a request came in whole and its answer did not yet go out so."""
        return self.cycle is not None and not self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection in."""
        super().connection_made(transport)
        self._start_anew()
        if len(self.connections) > MOST_CONNECTIONS:
            waiting = [each for each in self.connections if isinstance(each, Connection) and not each.is_answering]
            silent = min(waiting, key=lambda each: each._since)
            self.connections.discard(silent)
            silent.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget a connection."""
        self._stop_timer()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        self._start_anew()
        super().on_response_complete()

    def _start_anew(self) -> None:
        self._since = self.loop.time()
        self._wait()

    def _wait(self) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(REQUEST_SECONDS, self._expire)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _expire(self) -> None:
        if self.is_answering and self.loop.time() - self._since < ANSWER_SECONDS:
            self._wait()
        else:
            self.transport.abort()
