"""Opens pages of `cosmine report` in headless Chromium and fails where a reader would be let down.

    browser.py PAGE... [--shots DIRECTORY]

Of each page, in light and in dark, at 1280 pixels' width and at a phone's 390: nothing on the console, no request but the
page itself, every chart drawn and named, no horizontal scroll, text that can be read. Talks to the browser by its own
protocol over two pipes, so that Python's standard library is all it needs.
"""

import argparse
import base64
import json
import os
import pathlib
import select
import shutil
import subprocess
import sys
import tempfile
import time

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --remote-debugging-pipe"
).split()

# What a reader sees of the page, measured inside it.
MEASURE = """(() => {
  const shown = element => { const box = element.getBoundingClientRect(); return box.width > 0 && box.height > 0; };
  const charts = [...document.querySelectorAll('svg')].map(svg => {
    const shapes = [...svg.querySelectorAll('polyline, polygon, circle, path')];
    const series = shapes.filter(shape => /#1010/.test((shape.getAttribute('stroke') || '') + shape.getAttribute('fill')));
    const box = svg.getBoundingClientRect();
    const texts = [...svg.querySelectorAll('text')].filter(text => text.textContent.trim());
    const sizes = texts.map(text => text.getBoundingClientRect());
    const style = series.length ? getComputedStyle(series[0]) : null;
    const labelled = (svg.getAttribute('aria-labelledby') || '').split(' ').map(id => document.getElementById(id));
    return {
      title: svg.querySelector('title')?.textContent || '',
      named: labelled.length == 2 && labelled.every(label => label && label.textContent.trim()),
      series: series.filter(shape => { const own = shape.getBBox(); return own.width + own.height > 0; }).length,
      coloured: !!style && !/rgb\\(16, 16, 1.\\)/.test(style.stroke + style.fill),
      outside: sizes.filter(size => size.left < box.left - 1 || size.right > box.right + 1 ||
                                    size.top < box.top - 1 || size.bottom > box.bottom + 1).length,
      texts: texts.length,
      smallest: Math.min(...texts.map(text => parseFloat(getComputedStyle(text).fontSize) * box.width / svg.viewBox.baseVal.width)),
    };
  });
  return {
    charts,
    width: document.documentElement.scrollWidth,
    window: window.innerWidth,
    headings: document.querySelectorAll('h2').length,
    language: document.documentElement.lang,
    dead: [...document.querySelectorAll('a[href^="#"]')].filter(a => !document.getElementById(a.hash.slice(1))).length,
    background: getComputedStyle(document.body).backgroundColor,
    text: document.body.innerText.length,
    visible: charts.length && [...document.querySelectorAll('figure')].every(shown),
  };
})()"""


class Browser:
    """Chromium at the other end of two pipes; messages are JSON, each ended by a zero byte."""

    def __init__(self, executable):
        self.profile = tempfile.mkdtemp(prefix="cosmine-browser-")
        commands, self.write = os.pipe()
        self.read, answers = os.pipe()
        # The browser reads from descriptor 3 and writes to 4.
        wiring = f'exec 3<&{commands} 4>&{answers}; exec "$@"'
        self.process = subprocess.Popen(
            ["bash", "-c", wiring, "browser", executable, *FLAGS, f"--user-data-dir={self.profile}", "about:blank"],
            pass_fds=(commands, answers), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(commands)
        os.close(answers)
        self.number, self.buffer, self.events = 0, b"", []
        target = self.ask("Target.createTarget", {"url": "about:blank"})["targetId"]
        self.session = None
        self.session = self.ask("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]

    def message(self, seconds):
        end = time.monotonic() + seconds
        while b"\0" not in self.buffer:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.read], [], [], left)[0]:
                return None
            part = os.read(self.read, 1 << 20)
            if not part:
                raise SystemExit("browser.py: the browser went away")
            self.buffer += part
        text, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(text)

    def ask(self, method, parameters=None):
        self.number += 1
        request = {"id": self.number, "method": method, "params": parameters or {}}
        if getattr(self, "session", None):
            request["sessionId"] = self.session
        os.write(self.write, json.dumps(request).encode() + b"\0")
        while True:
            message = self.message(60)
            if message is None:
                raise SystemExit(f"browser.py: no answer to {method}")
            if message.get("id") == self.number:
                if "error" in message:
                    raise SystemExit(f"browser.py: {method}: {message['error']}")
                return message["result"]
            self.events.append(message)

    def wait(self, method):
        while True:
            for place, event in enumerate(self.events):
                if event.get("method") == method:
                    return self.events.pop(place)
            message = self.message(60)
            if message is None:
                raise SystemExit(f"browser.py: {method} never came")
            self.events.append(message)

    def close(self):
        try:
            os.write(self.write, json.dumps({"id": 0, "method": "Browser.close"}).encode() + b"\0")
            self.process.wait(20)
        except (OSError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.profile, ignore_errors=True)


def look(browser, page, width, scheme, shots):
    """What is wrong with a page, in words."""
    wrong = []
    phone = width < 500
    browser.events.clear()
    browser.ask("Emulation.setDeviceMetricsOverride", {
        "width": width, "height": 844 if phone else 900, "deviceScaleFactor": 2 if phone else 1, "mobile": phone})
    browser.ask("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
    address = page.resolve().as_uri()
    browser.ask("Page.navigate", {"url": address})
    browser.wait("Page.loadEventFired")
    seen = browser.ask("Runtime.evaluate", {"expression": MEASURE, "returnByValue": True})
    if "exceptionDetails" in seen:
        return [f"measuring failed: {seen['exceptionDetails']}"]
    seen = seen["result"]["value"]
    for event in browser.events:
        if event.get("method") in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
            wrong.append(f"console: {json.dumps(event['params'])[:300]}")
        if event.get("method") == "Network.requestWillBeSent":
            asked = event["params"]["request"]["url"]
            if asked != address and not asked.startswith("data:"):
                wrong.append(f"asks for {asked}")
    if seen["window"] != width:
        wrong.append(f"the window is {seen['window']} wide")
    if seen["width"] > seen["window"]:
        wrong.append(f"scrolls sideways: {seen['width']} in {seen['window']}")
    if not seen["charts"] or not seen["visible"]:
        wrong.append("no chart is to be seen")
    for chart in seen["charts"]:
        problems = [
            ("has no line, area or point", chart["series"] == 0),
            ("is not named for those who cannot see it", not chart["named"] or not chart["title"]),
            ("has the colours of the drawing, not of the scheme", not chart["coloured"]),
            ("has text outside", chart["outside"] > 0),
            ("has no labels at its axes", chart["texts"] < 4),
            (f"has text of {chart['smallest']:.1f} pixels", chart["smallest"] < 9.5),
        ]
        wrong += [f"chart `{chart['title']}` {problem}" for problem, is_so in problems if is_so]
    if seen["dead"] or seen["language"] != "en" or not seen["headings"]:
        wrong.append("links, language or headings are missing")
    bright = sum(int(part) for part in seen["background"].strip("rgb()").split(",")[:3]) > 384
    if bright != (scheme == "light"):
        wrong.append(f"{scheme} has the background {seen['background']}")
    if shots:
        picture = browser.ask("Page.captureScreenshot", {"captureBeyondViewport": True, "format": "png"})
        (shots / f"{page.stem}-{width}-{scheme}.png").write_bytes(base64.b64decode(picture["data"]))
    print(f"{page.name}, {width} pixels, {scheme}: {len(seen['charts'])} charts{'' if not wrong else ', WRONG'}")
    return wrong


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("pages", nargs="+", type=pathlib.Path)
    parser.add_argument("--shots", type=pathlib.Path)
    arguments = parser.parse_args()
    executable = next(filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None)
    if executable is None:
        raise SystemExit("browser.py: no chromium; install it by the system's package manager")
    if arguments.shots:
        arguments.shots.mkdir(parents=True, exist_ok=True)
    browser = Browser(executable)
    wrong = []
    try:
        for domain in ("Page", "Runtime", "Log", "Network"):
            browser.ask(f"{domain}.enable")
        for page in arguments.pages:
            for width in (1280, 390):
                for scheme in ("light", "dark"):
                    found = look(browser, page, width, scheme, arguments.shots)
                    wrong += [f"{page.name}, {width} pixels, {scheme}: {problem}" for problem in found]
    finally:
        browser.close()
    print("\n".join(wrong), file=sys.stderr)
    sys.exit(1 if wrong else 0)


main()
