"""What the kubelet asks: whether this process should be started anew, and whether it is of use."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from aiohttp import web

# Gives what is wrong, or nothing.
Check = Callable[[], str]


class Probes:
    """`/healthz` and `/readyz`: 200 while no check finds anything, else 503 with what was found.

    They are answered by the loop that does the work: one that hangs answers nothing, which is an answer too.
    """

    def __init__(self, alive: Sequence[Check], ready: Sequence[Check]) -> None:
        self._checks = {"/healthz": alive, "/readyz": [*alive, *ready]}
        self._runner: web.AppRunner | None = None

    async def serve(self, port: int) -> None:
        """Answer on `port` of every address."""
        application = web.Application()
        application.add_routes([web.get(path, self._answer) for path in self._checks])
        self._runner = web.AppRunner(application, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, port=port).start()

    async def close(self) -> None:
        """Answer no more."""
        if self._runner:
            await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        found = [said for check in self._checks[request.path] if (said := check())]
        return web.Response(text="; ".join(found) or "ok", status=503 if found else 200)
