# SPDX-License-Identifier: Apache-2.0
"""python3 -m cube_interpreter [--port N] [--cwd DIRECTORY]"""

import argparse
import logging

from aiohttp import web

from .contexts import Contexts
from .server import application


def main():
    parser = argparse.ArgumentParser(prog="cube_interpreter", description="Runs code in Jupyter kernels for E2B's SDKs.")
    parser.add_argument("--port", type=int, default=49999, help="where to listen (default 49999)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine alone)")
    parser.add_argument("--cwd", default="/home/user", help="where code runs that names no directory")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    web.run_app(application(Contexts(options.cwd)), host=options.host, port=options.port, print=None, access_log=None)


main()
