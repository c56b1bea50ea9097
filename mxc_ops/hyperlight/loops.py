"""Between threads and event loops: where coroutine functions of the host run, and who waits where."""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import TypeVar

from mxc_ops.hyperlight.running import OnText

__all__ = ["called_on", "on_own_thread", "tool_loop"]

_Answer = TypeVar("_Answer")
_loop: asyncio.AbstractEventLoop | None = None
_lock = threading.Lock()


def tool_loop() -> asyncio.AbstractEventLoop:
    """One loop of this process, on a thread of its own, for all coroutine functions of `Hyperlight.run`."""
    global _loop  # noqa: PLW0603 - one per process
    with _lock:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            threading.Thread(target=_loop.run_forever, name="mxc-ops tools", daemon=True).start()
        return _loop


def _forget_loop() -> None:
    global _loop, _lock
    _loop, _lock = None, threading.Lock()


os.register_at_fork(after_in_child=_forget_loop)


def called_on(loop: asyncio.AbstractEventLoop, callback: OnText | None) -> OnText | None:
    """The same for another thread, which waits for it; what it raises is raised there."""
    if callback is None:
        return None
    wanted = callback

    def call(text: str) -> None:
        done: Future[None] = Future()

        def work() -> None:
            try:
                wanted(text)
            except BaseException as error:
                done.set_exception(error)
            else:
                done.set_result(None)

        loop.call_soon_threadsafe(work)
        done.result()

    return call


async def on_own_thread(work: Callable[[], _Answer], *, stop: Callable[[], object]) -> _Answer:
    """What `work` returns or raises; whoever is cancelled calls `stop`, and waits for its end.

    The thread is its own: those that a loop shares are few, and this may take as long as it likes.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[_Answer] = loop.create_future()
    context = contextvars.copy_context()

    def settle(answer: _Answer | None, error: BaseException | None) -> None:
        if not done.done():
            if error is not None:
                done.set_exception(error)
            else:
                done.set_result(answer)  # pyright: ignore[reportArgumentType] - there is one without an error

    def run() -> None:
        answer, failure = None, None
        try:
            answer = context.run(work)
        except StopIteration as error:  # no future takes one: it would be the end of a coroutine (PEP 479)
            failure = RuntimeError(f"StopIteration was raised: {error}")
            failure.__cause__ = error
        except BaseException as error:
            failure = error
        with suppress(RuntimeError):  # the loop was closed meanwhile: nobody waits any more
            loop.call_soon_threadsafe(settle, answer, failure)

    threading.Thread(target=run, name="mxc-ops run", daemon=True).start()
    try:
        return await asyncio.shield(done)
    except asyncio.CancelledError:
        stop()
        while not done.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait({done})
        done.exception()  # looked at: nobody else will
        raise
