"""Live changes: one reader of the database for all who listen, and the stream that each gets (server-sent events).

    hello    at once; its id is where the listener stands
    change   something of a batch has changed: look at it again. Its status is derived a little later than what it is
             derived from: once it has followed, that is told too (StatusChanged)
    reset    what happened meanwhile can't be told any more: look at everything again
    a comment, when nothing happened for a while, so that both sides know of each other

The database is read only while somebody listens. A listener who does not take what is sent is told no more: it comes
again by itself, and says what it had last.
"""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import structlog
from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from fastapi import Header, Query, Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Send
from starlette.types import Scope as Asgi

from reconciler.core.errors import Unavailable
from reconciler.core.facts import JobKey
from reconciler.ports import Browser, StoredEvent
from reconciler.web.access import caller_of, gate_of, session_of
from reconciler.web.doors import Asking
from reconciler.web.problems import Declined
from reconciler.web.routing import LARGEST, Plain, SourceQuery, reading

log = structlog.get_logger()

listen = reading()

POLL = 0.5
"""Seconds between two looks at the database."""

AWAY = 5.0
"""Seconds until the next look at a database that did not answer."""

HEARTBEAT = 15.0
"""Seconds of silence."""

MOST_LISTENERS = 300
"""At a time: more are told to come again (503)."""

PORTION, TURN = 100, 0.02
"""Changes that are told one after the other, and seconds until the next: those who listen take theirs meanwhile, so that
only who is slow has many waiting, however much happens at once."""

WAITING = 500
"""Changes that wait for a listener who is slow; one more, and it is told no more."""

FOLLOWS = 30.0
"""Seconds within which the status of a batch has followed what happened to it."""

MOST_FOLLOWED, FOLLOWED_AT_ONCE = 2000, 500
"""Batches whose status is waited for, and looked up at once."""

KEPT = 2000
"""The latest changes, for listeners who come again."""

RECENT = 200
"""Events up to the last that somebody had who comes again: the status of their batches may have followed meanwhile."""

AT_ONCE = 1000
"""Events that are read of the database."""

EXAMPLE = """\
id: 4711
event: hello
data: {"sequence":4711}

id: 4712
event: change
data: {"source":"default","name":"patch-web","run":"batch-20261123-145052-7k3fq2mzsa","type":"SliceFinished","reason":""}

"""


_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class Change:
    """An event as it is sent to all."""

    sequence: int
    key: JobKey | None
    text: bytes

    @classmethod
    def of(cls, event: StoredEvent) -> Change:
        return cls._told(event.sequence, event.key, event.run, event.type, event.reason)

    @classmethod
    def of_status(cls, key: JobKey, position: int) -> Change:
        return cls._told(position, key, None, "StatusChanged", "")

    @classmethod
    def _told(cls, position: int, key: JobKey | None, run: str | None, kind: str, reason: str) -> Change:
        source, name = (None, None) if key is None else (key.source, key.name)
        told = {"source": source, "name": name, "run": run, "type": kind, "reason": reason}
        return cls(position, key, message("change", told, position))


def message(kind: str, told: Mapping[str, Any], position: int | None) -> bytes:
    """As server-sent events are written. JSON has no line breaks in it. Without a position, the listener's stays."""
    number = "" if position is None else f"id: {position}\n"
    return f"{number}event: {kind}\ndata: {json.dumps(told, separators=(',', ':'))}\n\n".encode()


class Listener:
    """Somebody who listens: what waits to be sent. None in the queue: there is no more."""

    def __init__(self, source: str | None, name: str | None) -> None:
        self._source, self._name = source, name
        self.queue: asyncio.Queue[Change | None] = asyncio.Queue()
        self.dropped = False

    def wants(self, change: Change) -> bool:
        key = change.key
        if key is None:
            return self._source is None and self._name is None
        return self._source in (None, key.source) and self._name in (None, key.name)

    def tell(self, change: Change) -> None:
        if self.dropped or not self.wants(change):
            return
        if self.queue.qsize() >= WAITING:
            self._drop()
        else:
            self.queue.put_nowait(change)

    def _drop(self) -> None:
        """What waits is not sent any more, but that something is missing."""
        self.dropped = True
        while not self.queue.empty():
            self.queue.get_nowait()
        self.queue.put_nowait(None)

    def end(self) -> None:
        self.queue.put_nowait(None)


class Followed:
    """Batches to which something has happened, until their status has followed. Used by one thread at a time."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._known: OrderedDict[JobKey, tuple[str | None, float]] = OrderedDict()
        """What the status was when it happened, or is since, as text; and until when it is looked at."""

    def clear(self) -> None:
        self._known.clear()

    def look(self, happened: Iterable[JobKey | None], now: float) -> Sequence[JobKey]:
        """Those whose status is another than at the last look. Raises Unavailable."""
        for key in [key for key, (_, until) in self._known.items() if until < now]:
            del self._known[key]
        new = {key for key in happened if key is not None and key.name}
        before = {key: status for key, (status, _) in self._known.items()}
        found = self._texts([*before, *(new - before.keys())])
        for key in new:
            self._known.pop(key, None)
            self._known[key] = (found.get(key), now + FOLLOWS)
        changed = [key for key, status in before.items() if found.get(key) != status]
        for key in changed:
            self._known[key] = (found.get(key), self._known[key][1])
        while len(self._known) > MOST_FOLLOWED:
            self._known.popitem(last=False)
        return changed

    def _texts(self, keys: Sequence[JobKey]) -> Mapping[JobKey, str]:
        found: dict[JobKey, str] = {}
        for start in range(0, len(keys), FOLLOWED_AT_ONCE):
            found.update(self._browser.status_texts(keys[start : start + FOLLOWED_AT_ONCE]))
        return found


class Fanout:
    """Everything in it happens in the server's event loop, but for reading the database, and `end`."""

    def __init__(self, store: Asking, browser: Browser) -> None:
        self._store = store
        self._followed = Followed(browser)
        self._limiter: CapacityLimiter | None = None
        self._listeners: set[Listener] = set()
        self._reading: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._position = 0
        self._kept: deque[Change] = deque(maxlen=KEPT)
        self._kept_after = 0
        """All that happened after this is kept."""
        self._came_again: dict[Listener, Sequence[JobKey]] = {}
        """Who is to be told with the next look that the status of these may have followed."""
        self._ended = False

    @property
    def listeners(self) -> int:
        return len(self._listeners)

    async def join(self, listener: Listener, last: int | None) -> tuple[int, Sequence[Change] | None]:
        """From now on it is told. `last`: what it had last. Returns where it stands, and what it has missed; None: that
        can't be told. Raises Declined, Unavailable."""
        self._check_room()
        if self._reading is None:
            position = await self._ask(self._store.last_event)
            self._check_room()  # others came meanwhile: all of them do when a daemon has been started again
            if self._reading is None:
                self._begin(position)
        position = self._position
        self._listeners.add(listener)  # from here on, what comes after the position waits for it
        try:
            missed = () if last is None else await self._missed(listener, last, position)
        except BaseException:
            self.leave(listener)
            raise
        return position, None if missed is None else [change for change in missed if listener.wants(change)]

    def _check_room(self) -> None:
        if len(self._listeners) >= MOST_LISTENERS or self._ended:
            raise Declined(503, "too many listen already", headers={"Retry-After": "30"})

    async def _missed(self, listener: Listener, last: int, position: int) -> Sequence[Change] | None:
        """What came after `last`, up to the position. None: it is ahead, as it is of a database that was there before; or
        there is too much, or its beginning is gone."""
        if last > position:
            return None
        before = max(0, last - RECENT)
        if before >= self._kept_after:
            found = [change for change in self._kept if before < change.sequence <= position]
        else:
            events = await self._ask(lambda: self._store.events_after(before, RECENT + AT_ONCE))
            found = [Change.of(event) for event in events if event.sequence <= position]
        missed = [change for change in found if change.sequence > last]
        # They are numbered without gaps.
        if len(missed) != position - last or len(missed) > AT_ONCE:
            return None
        recent = dict.fromkeys(change.key for change in found if change.key is not None and change.key.name)
        self._came_again[listener] = tuple(recent)
        return missed

    def leave(self, listener: Listener) -> None:
        self._listeners.discard(listener)
        self._came_again.pop(listener, None)

    def end(self) -> None:
        """Whoever listens is told no more, and nobody new. From any thread."""
        self._ended = True
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._end_all)

    def _end_all(self) -> None:
        for listener in self._listeners:
            listener.end()

    # -- reading -----------------------------------------------------------------------------------------------------
    def _begin(self, position: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._position = self._kept_after = position
        self._kept.clear()
        self._came_again.clear()
        self._followed.clear()
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        """As long as somebody listens."""
        try:
            while self._listeners and not self._ended:
                await asyncio.sleep(await self._look())
        finally:
            self._reading = None

    async def _look(self) -> float:
        """Tell what is new. Returns the seconds until the next look."""
        again = dict(self._came_again)
        try:
            events = await self._ask(lambda: self._store.events_after(self._position, AT_ONCE))
            # Before anybody is told: who looks at once sees this status, or one that is told of.
            now = asyncio.get_running_loop().time()
            happened = [*(event.key for event in events), *(key for keys in again.values() for key in keys)]
            settled = await self._ask(lambda: self._followed.look(happened, now))
        except Unavailable as error:
            log.warning("changes_not_read", why=str(error))
            return AWAY
        except Exception:
            log.exception("changes_not_read_by_a_bug")
            return AWAY
        await self._tell(list(map(Change.of, events)))
        await self._tell([Change.of_status(key, self._position) for key in settled])
        for listener, keys in again.items():
            self._came_again.pop(listener, None)
            for key in keys:
                listener.tell(Change.of_status(key, self._position))
        return 0.0 if len(events) == AT_ONCE else POLL

    async def _tell(self, changes: Sequence[Change]) -> None:
        """All who listen, of each; a portion at a time."""
        for number, change in enumerate(changes, start=1):
            if change.sequence > self._position:  # that of a status has no number of its own
                self._keep(change)
            for listener in self._listeners:
                listener.tell(change)
            if number % PORTION == 0:
                await asyncio.sleep(TURN)

    def _keep(self, change: Change) -> None:
        if len(self._kept) == KEPT:
            self._kept_after = self._kept[0].sequence
        self._kept.append(change)
        self._position = change.sequence

    async def _ask(self, question: Callable[[], _Answer]) -> _Answer:
        """In a thread, but not in one of those that answer requests: there may be none left."""
        if self._limiter is None:
            self._limiter = CapacityLimiter(2)
        return await run_sync(question, limiter=self._limiter)


# -- the stream ------------------------------------------------------------------------------------------------------
class Stream(StreamingResponse):
    """What one listener gets. However it ends, even before it has begun, the listener has left."""

    media_type = "text/event-stream"

    def __init__(self, fanout: Fanout, listener: Listener, parts: AsyncIterator[bytes]) -> None:
        # A proxy is not to keep anything back.
        super().__init__(parts, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        self._fanout, self._listener = fanout, listener

    async def __call__(self, scope: Asgi, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._fanout.leave(self._listener)


@listen.get(
    "/events",
    operation_id="listenToEvents",
    status_code=200,
    tags=["events"],
    response_class=Stream,
    responses={
        200: {
            "description": "A stream of server-sent events: hello, change, reset.",
            "content": {"text/event-stream": {"schema": {"type": "string"}, "example": EXAMPLE}},
        }
    },
)
async def listen_to_events(
    request: Request,
    source: SourceQuery = None,
    name: Annotated[Plain | None, Query(description="Of the batch of this name.")] = None,
    last_event_id: Annotated[
        str | None,
        Header(max_length=100, description="The id that was received last: what came after it is sent first."),
    ] = None,
) -> Stream:
    """What changes, as it changes: which batch, and what about it. To be looked up by whoever wants to know more."""
    fanout: Fanout = request.app.state.fanout
    listener = Listener(source, name)
    last = _number(last_event_id)
    position, missed = await fanout.join(listener, last)
    return Stream(fanout, listener, _told(request, listener, last, position, missed))


def _number(last_event_id: str | None) -> int | None:
    """What is no number of ours can't be resumed from: it is ahead of all."""
    if not last_event_id:
        return None
    text = last_event_id.strip()
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 17 else LARGEST


async def _told(
    request: Request, listener: Listener, last: int | None, position: int, missed: Sequence[Change] | None
) -> AsyncIterator[bytes]:
    begins = position if last is None or missed is None else last
    yield b"retry: 3000\n" + message("hello", {"sequence": begins}, begins)
    if missed is None:
        yield message("reset", {}, position)
    else:
        yield b"".join(change.text for change in missed)
    clock = asyncio.get_running_loop().time
    checked = clock()
    while True:
        try:
            change = await asyncio.wait_for(listener.queue.get(), HEARTBEAT)
            parts = [b""] if change is None else [change.text]
            while change is not None and not listener.queue.empty():
                change = listener.queue.get_nowait()
                parts.append(b"" if change is None else change.text)
            yield b"".join(parts)
            if change is None:
                break
        except TimeoutError:
            yield b":\n\n"
        if clock() - checked >= HEARTBEAT:
            checked = clock()
            if not _may_listen(request):
                break
    if listener.dropped:
        yield message("reset", {}, None)


def _may_listen(request: Request) -> bool:
    """Whoever has logged out meanwhile hears no more."""
    caller = caller_of(request)
    return not caller.by_cookie or gate_of(request).sessions.whose(session_of(request.headers)) is not None
