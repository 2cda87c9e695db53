# SPDX-License-Identifier: Apache-2.0
"""A Jupyter kernel around node: `driver.js` runs the code, this passes its lines on as messages.

Started by jupyter_client as python3 -m cube_interpreter.javascript -f CONNECTION_FILE.
"""

import json
import signal
import subprocess
from pathlib import Path

from ipykernel.kernelapp import IPKernelApp
from ipykernel.kernelbase import Kernel

DRIVER = Path(__file__).with_name("driver.js")


class JavaScript(Kernel):
    implementation = "cube-javascript"
    implementation_version = "1"
    language_info = {"name": "javascript", "mimetype": "application/javascript", "file_extension": ".js"}
    banner = "JavaScript, run by node"

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.node = None
        # An interrupt is sent to the process group. node interrupts the code; this process goes on, to
        # tell how that ended.
        signal.signal(signal.SIGINT, lambda _signal, _frame: None)

    def pre_handler_hook(self):
        """The base class would put its own handler of interrupts in place here."""

    def post_handler_hook(self):
        """See `pre_handler_hook`."""

    def do_execute(self, code, silent, store_history=True, user_expressions=None, allow_stdin=False):
        if self.node is None or self.node.poll() is not None:
            self.node = subprocess.Popen(
                ["node", "--no-warnings", DRIVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            )
        self.node.stdin.write(json.dumps({"code": code}).encode() + b"\n")
        self.node.stdin.flush()
        for line in self.node.stdout:
            message = json.loads(line)
            match message.pop("type"):
                case "stream" if not silent:
                    self.send_response(self.iopub_socket, "stream", message)
                case "result" if not silent:
                    shown = message | {"execution_count": self.execution_count, "metadata": {}}
                    self.send_response(self.iopub_socket, "execute_result", shown)
                case "error":
                    self.send_response(self.iopub_socket, "error", message)
                    return {"status": "error", "execution_count": self.execution_count} | message
                case "done":
                    return {"status": "ok", "execution_count": self.execution_count, "user_expressions": {}}
        gone = {"ename": "KernelDied", "evalue": f"node ended with status {self.node.wait()}", "traceback": []}
        self.send_response(self.iopub_socket, "error", gone)
        return {"status": "error", "execution_count": self.execution_count} | gone

    def do_shutdown(self, restart):
        if self.node:
            self.node.kill()
            self.node.wait()
        return {"status": "ok", "restart": restart}


if __name__ == "__main__":
    IPKernelApp.launch_instance(kernel_class=JavaScript)
