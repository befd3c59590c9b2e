"A headless Chromium driven over a pipe, with the standard library alone."
import base64
import functools
import http.server
import json
import os
import select
import shutil
import subprocess
import tempfile
import threading
import time

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
         "--disable-extensions", "--mute-audio", "--remote-debugging-pipe")


def chromium():
    "Path of a Chromium on PATH, or None."
    return next((p for p in map(shutil.which, NAMES) if p), None)


class Quiet(http.server.SimpleHTTPRequestHandler):
    "Files of a folder, without a line for each; scripts and models with the types that browsers want."
    extensions_map = http.server.SimpleHTTPRequestHandler.extensions_map | {
        ".js": "text/javascript", ".bin": "application/octet-stream", ".webp": "image/webp"}

    def log_message(self, *args): pass


def serve(folder):
    "A server of `folder` on a free local port, in a thread: (server, address)."
    handler = functools.partial(Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, f"http://127.0.0.1:{server.server_port}"


class Browser:
    "One page of a headless Chromium: `with Browser() as b: b.open(address)`."
    def __init__(self, path=None):
        self.profile = tempfile.mkdtemp(prefix="ctdiff-browser.")
        (child_in, self.to), (self.back, child_out) = os.pipe(), os.pipe()
        def fds():                       # the browser reads commands on 3 and answers on 4
            spare_in, spare_out = os.dup(child_in), os.dup(child_out)
            os.dup2(spare_in, 3)
            os.dup2(spare_out, 4)
        command = [path or chromium(), *FLAGS, f"--user-data-dir={self.profile}"]
        self.process = subprocess.Popen(command, preexec_fn=fds, close_fds=False,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(child_in)
        os.close(child_out)
        self.count, self.buffer, self.events, self.session = 0, b"", [], None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"): self.call(f"{domain}.enable")

    def __enter__(self): return self

    def __exit__(self, *error):
        self.process.terminate()
        self.process.wait(10)
        os.close(self.to)
        os.close(self.back)
        shutil.rmtree(self.profile, ignore_errors=True)

    def message(self, timeout):
        "The next message of the browser; None if there is none in time."
        end = time.monotonic() + timeout
        while b"\0" not in self.buffer:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.back], [], [], left)[0]: return None
            got = os.read(self.back, 1 << 16)
            if not got: raise RuntimeError("the browser ended")
            self.buffer += got
        line, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(line)

    def call(self, method, timeout=180, **params):
        "Send a command, return its result; events that come in between are kept."
        self.count += 1
        command = {"id": self.count, "method": method, "params": params}
        if self.session: command["sessionId"] = self.session
        os.write(self.to, json.dumps(command).encode() + b"\0")
        while (m := self.message(timeout)) is not None:
            if m.get("id") == self.count:
                if "error" in m: raise RuntimeError(f"{method}: {m['error']['message']}")
                return m["result"]
            if "method" in m: self.events.append(m)
        raise TimeoutError(f"{method}: no answer in {timeout} s")

    def wait(self, event, timeout=180):
        "Read events until one of that name has come."
        end = time.monotonic() + timeout
        while not any(e["method"] == event for e in self.events):
            m = self.message(max(0, end - time.monotonic()))
            if m is None: raise TimeoutError(f"{event} did not come in {timeout} s")
            if "method" in m: self.events.append(m)

    def size(self, width, height=900, scale=1, dark=False, still=False):
        "Set the window, light or dark, with or without motion."
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale,
                  mobile=width < 600)
        media = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
                 {"name": "prefers-reduced-motion", "value": "reduce" if still else "no-preference"}]
        self.call("Emulation.setEmulatedMedia", features=media)

    def open(self, address, timeout=180):
        "Load a page and wait for its load event."
        self.events.clear()
        self.call("Page.navigate", url=address)
        self.wait("Page.loadEventFired", timeout)

    def run(self, script, timeout=180):
        "The value of an expression in the page; promises are awaited."
        got = self.call("Runtime.evaluate", timeout, expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in got:
            error = got["exceptionDetails"]
            raise RuntimeError(error.get("exception", {}).get("description", error["text"]))
        return got["result"].get("value")

    def errors(self):
        "What went wrong on the page so far: exceptions, console errors, failed requests."
        self.run("0")                     # everything before this answer has been read
        for e in self.events:
            if e["method"] == "Runtime.exceptionThrown":
                details = e["params"]["exceptionDetails"]
                yield details.get("exception", {}).get("description", details["text"]).splitlines()[0]
            if e["method"] == "Log.entryAdded" and e["params"]["entry"]["level"] == "error":
                yield f"{e['params']['entry']['text']} {e['params']['entry'].get('url', '')}"
            if e["method"] == "Runtime.consoleAPICalled" and e["params"]["type"] == "error":
                yield str([a.get("value", a.get("description")) for a in e["params"]["args"]])

    def screenshot(self, path, clip=None):
        "A PNG of the whole page (or of a rectangle of it)."
        box = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = clip or dict(x=0, y=0, width=box["width"], height=box["height"])
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True, clip=dict(clip, scale=1))
        path.write_bytes(base64.b64decode(shot["data"]))
