# SPDX-License-Identifier: Apache-2.0
"""The code interpreter, by its own SDK: a cell, what it leaves, an error, another language."""

from e2b_code_interpreter import Sandbox

# An emulated machine takes longer than SDKs wait by themselves.
WAIT = {"timeout": 300, "request_timeout": 300}

sandbox = Sandbox.create(timeout=900, request_timeout=300)
try:
    first = sandbox.run_code("import math\nprint('printed')\nx = math.factorial(5)\nx", **WAIT)
    assert first.text == "120", first
    assert first.logs.stdout == ["printed\n"], first.logs
    assert sandbox.run_code("x + 1", **WAIT).text == "121"
    failed = sandbox.run_code("1 / 0", **WAIT)
    assert failed.error.name == "ZeroDivisionError", failed
    assert sandbox.run_code("echo from bash", language="bash", **WAIT).logs.stdout[0].startswith("from bash")
    sandbox.files.write("/home/user/data.csv", "a,b\n1,2\n3,4\n")
    frame = sandbox.run_code("import pandas\npandas.read_csv('/home/user/data.csv').sum().to_dict()", **WAIT)
    assert "4" in frame.text and "6" in frame.text, frame
finally:
    sandbox.kill()
print("done")
