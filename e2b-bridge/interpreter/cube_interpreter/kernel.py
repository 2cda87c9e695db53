# SPDX-License-Identifier: Apache-2.0
"""One kernel: started, asked to run code, interrupted, restarted, stopped.

Executions take turns. Each is a stream of lines; between two lines that are further apart than
KEEPALIVE_S there is an empty one of its own kind, with which the server finds out that nobody listens
any more. A caller that stops iterating early leaves an interrupted kernel behind, ready for the next.
"""

import asyncio
import contextlib
import queue
import tempfile

from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import NoSuchKernel

from . import outputs
from .languages import UnknownLanguage

KEEPALIVE_S = 5
START_S = 60
INTERRUPTED_S = 5
"""How long interrupted code may take to give in before its kernel is restarted."""


class KernelFailed(Exception):
    """What the server itself has a kernel do went wrong."""

    def __init__(self, language, why):
        super().__init__(f"the {language} kernel could not be set up: {why}")


class Kernel:
    def __init__(self, language, cwd):
        self.language = language
        self.cwd = cwd
        self.turn = asyncio.Lock()
        # Sockets in a directory instead of ports: a sandbox's ports are its user's.
        self.directory = tempfile.TemporaryDirectory(prefix="kernel-")
        self.manager = AsyncKernelManager(
            kernel_name=language.kernel, transport="ipc", ip=f"{self.directory.name}/socket",
            connection_file=f"{self.directory.name}/connection.json",
        )
        self.client = None
        # The client of the execution in progress, which closes it if it is no longer the kernel's.
        self.in_use = None

    async def start(self):
        try:
            await self.manager.start_kernel(cwd=self.cwd)
        except NoSuchKernel:
            raise UnknownLanguage(self.language.name) from None
        except OSError as error:
            raise KernelFailed(self.language.name, error) from error
        await self._connect()

    async def restart(self):
        await self.manager.restart_kernel(now=True)
        await self._connect()

    async def stop(self):
        if self.client:
            self.client.stop_channels()
        if self.manager.has_kernel:
            await self.manager.shutdown_kernel(now=True)
        self.directory.cleanup()

    async def run(self, code, variables):
        """Yields the lines of one execution; `variables` are set for as long as it takes."""
        async with self.turn:
            if not await self.manager.is_alive():
                await self.restart()
            async with self._environment(variables):
                execution = self._execute(code)
                try:
                    async for line in execution:
                        yield line
                except GeneratorExit:
                    await self._interrupt(execution)
                    raise

    async def _connect(self):
        if self.client and self.client is not self.in_use:
            self.client.stop_channels()
        self.client = self.manager.client()
        self.client.start_channels()
        try:
            await self.client.wait_for_ready(timeout=START_S)
        except RuntimeError as error:
            raise KernelFailed(self.language.name, error) from error
        if self.language.prepare:
            await self._quietly(self.language.prepare)

    async def _execute(self, code):
        client = self.in_use = self.client
        try:
            async for line in self._lines(client, client.execute(code, allow_stdin=False)):
                yield line
        finally:
            self.in_use = None
            if client is not self.client:
                client.stop_channels()

    async def _lines(self, client, message):
        while client is self.client:
            try:
                reply = await client.get_iopub_msg(timeout=KEEPALIVE_S)
            except queue.Empty:
                if not await self.manager.is_alive():
                    yield outputs.error("KernelDied", "the kernel ended while it ran this code; it is started anew by the next")
                    return
                yield {"type": "keepalive"}
                continue
            if reply["parent_header"].get("msg_id") != message:
                continue
            if reply["msg_type"] == "status" and reply["content"]["execution_state"] == "idle":
                return
            if found := outputs.line(reply["msg_type"], reply["content"]):
                yield found
        yield outputs.error("KernelRestarted", "the kernel was restarted while it ran this code")

    async def _interrupt(self, execution):
        """Ends what nobody waits for. Code that ignores the interrupt loses its kernel."""
        await self.manager.interrupt_kernel()
        try:
            async with asyncio.timeout(INTERRUPTED_S):
                async for _ in execution:
                    pass
        except TimeoutError:
            await self.restart()

    @contextlib.asynccontextmanager
    async def _environment(self, variables):
        if variables:
            await self._quietly(self.language.environment(variables))
        try:
            yield
        finally:
            if variables:
                await self._quietly(self.language.environment(dict.fromkeys(variables)))

    async def _quietly(self, code):
        message = self.client.execute(code, silent=True, store_history=False, allow_stdin=False)
        while True:
            try:
                reply = await self.client.get_shell_msg(timeout=START_S)
            except queue.Empty:
                raise KernelFailed(self.language.name, f"no answer within {START_S} s") from None
            if reply["parent_header"].get("msg_id") == message:
                break
        if reply["content"]["status"] != "ok":
            raise KernelFailed(self.language.name, f"{reply['content'].get('ename')}: {reply['content'].get('evalue')}")
