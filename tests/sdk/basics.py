# SPDX-License-Identifier: Apache-2.0
"""What E2B's SDK can do with a sandbox, done with the SDK as its users have it. Prints a line a step; an assertion ends it."""

import io
import sys
import time

from e2b import CommandExitException, FileType, NotFoundException, Sandbox, SandboxQuery


def step(name):
    print(f"{time.monotonic():.1f} {name}", flush=True)


def main():
    step("create")
    sandbox = Sandbox.create("base", timeout=900, metadata={"who": "a b"}, envs={"GREETING": "hi"})
    try:
        commands(sandbox)
        streams(sandbox)
        files(sandbox)
        watching(sandbox)
        listing(sandbox)
        ports(sandbox)
    finally:
        step("kill")
        killed = sandbox.kill()
    assert killed
    assert not sandbox.kill()
    assert not sandbox.is_running()
    step("done")


def commands(sandbox):
    step("commands")
    assert sandbox.is_running()
    done = sandbox.commands.run("echo $GREETING; whoami; pwd; echo oops >&2")
    assert done.stdout == "hi\nuser\n/home/user\n", done
    assert done.stderr == "oops\n" and done.exit_code == 0, done
    assert sandbox.commands.run("whoami", user="root").stdout == "root\n"
    assert sandbox.commands.run("sudo whoami").stdout == "root\n"
    assert sandbox.commands.run("echo $A-$E2B_SANDBOX", envs={"A": "b"}, cwd="/tmp").stdout == "b-true\n"
    try:
        sandbox.commands.run("exit 3")
        raise AssertionError("an exit code was lost")
    except CommandExitException as error:
        assert error.exit_code == 3, error


def streams(sandbox):
    step("streams")
    cat = sandbox.commands.run("cat", background=True, stdin=True)
    assert any(process.pid == cat.pid for process in sandbox.commands.list())
    sandbox.commands.send_stdin(cat.pid, "typed\n")
    seen = []
    for out, _, _ in cat:
        seen.append(out)
        break
    assert "".join(filter(None, seen)) == "typed\n", seen
    assert sandbox.commands.kill(cat.pid)
    assert not sandbox.commands.kill(999999)


def files(sandbox):
    step("files")
    written = sandbox.files.write("notes/a.txt", "hello")
    assert written.path == "/home/user/notes/a.txt", written
    assert sandbox.files.read("notes/a.txt") == "hello"
    blob = bytes(range(256)) * 4096
    sandbox.files.write("/tmp/blob", io.BytesIO(blob))
    assert bytes(sandbox.files.read("/tmp/blob", format="bytes")) == blob
    assert "Linux" in sandbox.files.read("/proc/version")
    info = sandbox.files.get_info("notes/a.txt")
    assert (info.size, info.owner, info.type) == (5, "user", FileType.FILE), info
    assert sandbox.files.make_dir("notes/deep/er")
    assert not sandbox.files.make_dir("notes/deep/er")
    assert sorted(entry.name for entry in sandbox.files.list("notes")) == ["a.txt", "deep"]
    sandbox.files.rename("notes/a.txt", "notes/b.txt")
    assert sandbox.files.exists("notes/b.txt") and not sandbox.files.exists("notes/a.txt")
    sandbox.files.remove("notes")
    try:
        sandbox.files.read("notes/b.txt")
        raise AssertionError("a removed file was read")
    except NotFoundException:
        pass


def watching(sandbox):
    step("watching")
    sandbox.files.make_dir("watched")
    watcher = sandbox.files.watch_dir("watched")
    sandbox.files.write("watched/new", "x")
    end = time.monotonic() + 60
    seen = []
    while "new" not in seen and time.monotonic() < end:
        seen += [event.name for event in watcher.get_new_events()]
        time.sleep(0.2)
    watcher.stop()
    assert "new" in seen, seen


def listing(sandbox):
    step("listing")
    query = SandboxQuery(metadata={"who": "a b"})
    ids = [item.sandbox_id for item in Sandbox.list(query=query).next_items()]
    assert ids == [sandbox.sandbox_id], ids
    info = sandbox.get_info()
    assert info.metadata == {"who": "a b"}, info
    before = info.end_at
    sandbox.set_timeout(1800)
    assert sandbox.get_info().end_at > before
    again = Sandbox.connect(sandbox.sandbox_id)
    assert again.commands.run("echo again").stdout == "again\n"
    assert sandbox.get_metrics()[0].cpu_count > 0


def ports(sandbox):
    step("ports")
    import os
    import urllib.request

    sandbox.files.write("www/index.html", "served")
    server = sandbox.commands.run("cd www && exec python3 -m http.server 8000 --bind 127.0.0.1", background=True)
    end = time.monotonic() + 120
    headers = {"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": "8000"}
    while True:
        try:
            request = urllib.request.Request(os.environ["E2B_SANDBOX_URL"], headers=headers)
            assert urllib.request.urlopen(request, timeout=30).read() == b"served"
            break
        except OSError as error:
            assert time.monotonic() < end, error
            time.sleep(0.5)
    server.kill()


sys.exit(main())
