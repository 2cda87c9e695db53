# SPDX-License-Identifier: Apache-2.0
"""Routes, requests, answers. What fails is told as text with a status, as the SDKs expect it.

The variables of a sandbox reach its code in the header X-Cube-Environment, a JSON object in base64, which
the bridge adds to each execution: kernels were started before the sandbox was made.
"""

import base64
import binascii
import contextlib
import json
import logging

from aiohttp import web

from .contexts import Contexts, NotFound, TooMany
from .kernel import KernelFailed
from .languages import PYTHON, UnknownLanguage

ENVIRONMENT_HEADER = "X-Cube-Environment"
LONGEST_REQUEST = 64 << 20
CONTEXTS = web.AppKey("contexts", Contexts)
log = logging.getLogger(__name__)


class Invalid(Exception):
    """A request that means nothing."""


STATUS = {Invalid: 400, NotFound: 404, TooMany: 429, UnknownLanguage: 500, KernelFailed: 500}


def application(contexts):
    app = web.Application(client_max_size=LONGEST_REQUEST, middlewares=[errors])
    app[CONTEXTS] = contexts
    app.add_routes([
        web.get("/health", health),
        web.post("/execute", execute),
        web.get("/contexts", list_contexts),
        web.post("/contexts", create_context),
        web.delete("/contexts/{id}", remove_context),
        web.post("/contexts/{id}/restart", restart_context),
    ])
    app.cleanup_ctx.append(life)
    return app


async def life(app):
    # Before it listens: whoever finds the port open finds a kernel that is up.
    await app[CONTEXTS].default(PYTHON.name)
    yield
    await app[CONTEXTS].close()


@web.middleware
async def errors(request, handler):
    try:
        return await handler(request)
    except tuple(STATUS) as error:
        return web.Response(status=STATUS[type(error)], text=str(error))


async def health(_request):
    return web.json_response("OK")


async def execute(request):
    asked = await body(request)
    code, name, language = text(asked, "code", ""), text(asked, "context_id"), text(asked, "language")
    if name and language:
        raise Invalid("only one of context_id and language can be given")
    contexts = request.app[CONTEXTS]
    context = contexts.find(name) if name else await contexts.default(language)
    variables = environment(request) | (asked.get("env_vars") or {})

    answer = web.StreamResponse(headers={"Content-Type": "application/x-ndjson", "Cache-Control": "no-store"})
    await answer.prepare(request)
    # Closed whatever happens: a client that is gone is noticed by a write, and its code is interrupted.
    async with contextlib.aclosing(context.kernel.run(code, variables)) as lines:
        try:
            async for line in lines:
                if request.transport is None or request.transport.is_closing():
                    raise ConnectionResetError
                await answer.write(encoded(line))
            await answer.write(encoded({"type": "end_of_execution"}))
        except ConnectionResetError:
            log.info("a client left in the middle of an execution, which is interrupted")
    return answer


async def list_contexts(request):
    return web.json_response([context.described() for context in request.app[CONTEXTS].all.values()])


async def create_context(request):
    asked = await body(request)
    context = await request.app[CONTEXTS].create(text(asked, "language"), text(asked, "cwd"))
    return web.json_response(context.described())


async def remove_context(request):
    await request.app[CONTEXTS].remove(request.match_info["id"])
    return web.Response(status=204)


async def restart_context(request):
    kernel = request.app[CONTEXTS].find(request.match_info["id"]).kernel
    await kernel.restart()
    return web.Response(status=204)


async def body(request):
    """The object in the request's body; none is an empty one."""
    raw = await request.read()
    try:
        asked = json.loads(raw) if raw else {}
    except ValueError as error:
        raise Invalid(f"the body is not JSON: {error}") from None
    if not isinstance(asked, dict):
        raise Invalid("the body is not a JSON object")
    if not strings(asked.get("env_vars") or {}):
        raise Invalid("env_vars is not an object of strings")
    return asked


def text(asked, field, default=None):
    value = asked.get(field)
    if value is None:
        return default
    if not isinstance(value, str):
        raise Invalid(f"{field} is not a string")
    return value


def environment(request):
    """The sandbox's own variables."""
    header = request.headers.get(ENVIRONMENT_HEADER)
    if not header:
        return {}
    try:
        found = json.loads(base64.b64decode(header, validate=True))
    except (binascii.Error, ValueError):
        found = None
    if not strings(found):
        raise Invalid(f"{ENVIRONMENT_HEADER} is not an object of strings in base64")
    return found


def strings(found):
    return isinstance(found, dict) and all(isinstance(value, str) for value in found.values())


def encoded(line):
    return json.dumps(line, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
