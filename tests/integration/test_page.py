"""The live page in a real browser: numbers move, it survives a restart of the broker."""

import base64
import contextlib
import http.client
import json
import os
import re
import socket
import subprocess
import threading
import time

import pytest

from harness import FACTOR, PATIENCE, ROOT, dial, release_only

CHROMIUM = "chromium"

QUIET = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--remote-debugging-pipe",
]


class Browser:
    """One page, driven through Chromium's debugging pipe (messages of JSON that end in a NUL)."""

    def __init__(self, directory, width, height, dark):
        read_commands, self.commands = os.pipe()
        self.events, write_events = os.pipe()

        def pipes():
            # Chromium wants them as 3 and 4; either may be in the other's place.
            commands, events = os.dup(read_commands), os.dup(write_events)
            os.dup2(os.dup2(commands, 98), 3)
            os.dup2(os.dup2(events, 99), 4)

        self.process = subprocess.Popen([CHROMIUM, *QUIET, f"--user-data-dir={directory}"], preexec_fn=pipes,
                                        close_fds=False, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL)
        os.close(read_commands)
        os.close(write_events)
        self.buffer, self.n, self.session, self.complaints = b"", 0, None, []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.call("Runtime.enable")
        self.call("Page.enable")
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        self.call("Emulation.setEmulatedMedia",
                  features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])

    def call(self, method, **params):
        self.n += 1
        message = {"id": self.n, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self.buffer:
                data = os.read(self.events, 1 << 20)
                assert data, "the browser has ended"
                self.buffer += data
            text, self.buffer = self.buffer.split(b"\0", 1)
            answer = json.loads(text)
            if answer.get("method") == "Runtime.exceptionThrown":
                self.complaints.append(answer["params"])
            if answer.get("id") == self.n:
                assert "error" not in answer, answer
                return answer["result"]

    def value(self, expression):
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def wait(self, expression, seconds=PATIENCE):
        deadline = time.monotonic() + seconds
        while not self.value(expression):
            assert time.monotonic() < deadline, f"not within {seconds:g} s: {expression}"
            time.sleep(0.1)

    def screenshot(self, path):
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def close(self):
        self.process.terminate()
        self.process.wait(PATIENCE)
        os.close(self.commands)
        os.close(self.events)


class Proxy:
    """Stands between a client and a broker that may be cut off, or replaced by another."""

    def __init__(self):
        self.target = None  # without one it closes what comes
        self.sockets = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client = self.listener.accept()[0]
            except OSError:
                return
            try:
                broker = dial(self.target) if self.target else None
            except OSError:
                broker = None
            if broker is None:
                client.close()
                continue
            broker.setblocking(True)
            self.sockets += [client, broker]
            for pair in ((client, broker), (broker, client)):
                threading.Thread(target=self.pump, args=pair, daemon=True).start()

    @staticmethod
    def pump(source, sink):
        try:
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def cut(self):
        """Ends every connection, wherever it is."""
        while self.sockets:
            with contextlib.suppress(OSError):
                self.sockets.pop().shutdown(socket.SHUT_RDWR)

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.cut()


@pytest.fixture
def proxy():
    proxy = Proxy()
    yield proxy
    proxy.close()


@pytest.mark.parametrize("width,height,dark", [(1280, 1100, False), (1280, 1100, True), (390, 2000, False)],
                         ids=["light", "dark", "phone"])
def test_the_page_shows_live_numbers(start, tmp_path, width, height, dark):
    broker = start(reactors=2, listen={"main": {"address": "127.0.0.1:0", "protocols": ["line", "http"]}})
    subscribers = [broker.subscribe("page.test") for _ in range(4)]
    publisher = broker.publisher("page.test")
    browser = Browser(tmp_path / "profile", width, height, dark)
    try:
        browser.call("Page.navigate", url=f"http://{broker.address()}/")
        for _ in range(30):
            publisher.send(b"x\n" * 50)
            for subscriber in subscribers:
                subscriber.take_waiting()
            broker.loop.sleep(0.1)
        browser.wait("typeof samples !== 'undefined' && samples.length >= 4")
        for view in ("topics", "clients", "reactors", "overview"):
            browser.value(f"location.hash = '#{view}'")
            browser.wait(f"!document.getElementById('view-{view}').hidden")
            assert browser.value("document.querySelectorAll('main > .view:not([hidden])').length") == 1
            if view == "reactors":
                browser.wait("/protocol line/.test(document.getElementById('delivery-table').textContent)")
            assert browser.value("document.documentElement.scrollWidth") <= width, f"{view}: nothing sticks out sideways"
        assert browser.value("document.getElementById('state').textContent") == "live"
        assert browser.value("Math.max(...samples.map(s => sum(s.reactors, r => r.delivered)))") > 1000
        assert browser.value("samples.some(s => s.topics.some(t => t.topic === 'page.test'))") or FACTOR > 1
        assert browser.value("document.documentElement.scrollWidth") <= width, "nothing sticks out sideways"
        assert browser.complaints == []
        browser.screenshot(tmp_path / "page.png")
    finally:
        browser.close()


PICTURE = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==")


def post(broker, topic, body):
    client = http.client.HTTPConnection(*broker.address().split(":"), timeout=PATIENCE)
    client.request("POST", f"/publish/{topic}", body)
    assert client.getresponse().status == 200
    client.close()


def text(selector):
    return f"document.querySelector({json.dumps(selector)}).textContent"


def press(browser, *keys):
    for key in keys:
        for kind in ("keyDown", "keyUp"):
            browser.call("Input.dispatchKeyEvent", type=kind, key=key, text="\r" if key == "Enter" and kind == "keyDown" else "")


@release_only
def test_the_console_shows_topics_and_what_is_published_to_them(start, tmp_path):
    broker = start(reactors=2, listen={"main": {"address": "127.0.0.1:0", "protocols": ["line", "http"]}})
    post(broker, "shop.orders", b'{"id": 7, "items": [{"name": "<b>tea</b>", "n": 2}]}')
    post(broker, "shop.logo", PICTURE)
    post(broker, "shop.raw", bytes(range(128, 160)))
    post(broker, "weather", b"rain")
    stalled = broker.subscribe("weather")
    browser = Browser(tmp_path / "profile", 1280, 900, False)
    try:
        browser.call("Page.navigate", url=f"http://{broker.address()}/#topics")
        # The tree, by keys alone: down to the first branch, into it, and open a topic.
        browser.wait("document.querySelectorAll('#tree tbody tr[data-path]').length === 5")
        rows = "[...document.querySelectorAll('#tree tbody tr')].map(r => r.dataset.path)"
        assert browser.value(rows) == ["shop", "shop.logo", "shop.orders", "shop.raw", "weather"]
        browser.value("document.querySelector('#tree tbody tr').focus()")
        press(browser, "ArrowDown", "ArrowDown")
        assert browser.value("document.activeElement.dataset.path") == "shop.orders"
        press(browser, "Enter")
        browser.wait("document.querySelectorAll('#messages li').length === 1")
        assert browser.value("document.querySelectorAll('#messages details').length") == 3
        assert "<b>tea</b>" in browser.value(text("#messages")) and browser.value("document.querySelector('#messages b')") is None
        assert "history 1 messages" in browser.value(text("#facts"))
        press(browser, "ArrowLeft", "ArrowLeft")
        browser.wait("document.querySelectorAll('#tree tbody tr').length === 2")
        # What comes while it is looked at, and what the box publishes.
        post(broker, "shop.orders", b"plain")
        browser.wait(text("#messages li pre") + " === 'plain'")
        browser.value("document.getElementById('body').value = 'from the box'; document.getElementById('publish').requestSubmit()")
        browser.wait(text("#said") + ".startsWith('published as ')")
        browser.wait(text("#messages li pre") + " === 'from the box'")
        # Other content.
        browser.value("location.hash = '#topics/shop.logo'")
        browser.wait("document.querySelector('#messages img') && document.querySelector('#messages img').naturalWidth === 1")
        browser.value("location.hash = '#topics/shop.raw'")
        browser.wait("document.querySelector('#messages pre') && " + text("#messages pre") + ".startsWith('0000  80 81 82')")
        browser.value("location.hash = '#topics/' + encodeURIComponent('shop.>')")
        browser.wait("document.querySelectorAll('#messages li').length > 0")
        post(broker, "shop.orders", b"by pattern")
        browser.wait(text("#messages li b") + " === 'shop.orders'")
        assert browser.value("document.getElementById('send').disabled")
        # The search: text anywhere, a pattern.
        for search, found in (("ogo", ["shop", "shop.logo"]), ("*.raw", ["shop", "shop.raw"]), ("weather", ["weather"]), ("nothing", [])):
            browser.value(f"document.getElementById('search').value = '{search}'; document.getElementById('search').dispatchEvent(new Event('input'))")
            browser.wait(f"JSON.stringify({rows}.filter(Boolean)) === '{json.dumps(found, separators=(',', ':'))}'")
        # Who is there, and behind.
        stalled.stall()
        broker.publisher("weather").send(b"%s\n" % (b"x" * 100_000) * 60)
        browser.value("location.hash = '#clients'")
        browser.wait(text("#slowest") + ".includes('weather') && " + text("#kinds") + ".includes('anonymous')")
        browser.value("location.hash = '#reactors'")
        browser.wait("samples.length >= 3 && document.querySelectorAll('#heat-turn canvas').length === 2")
        assert "99 %" in browser.value(text("#heat-turn figcaption"))
        assert browser.complaints == []
        stalled.resume()
    finally:
        browser.close()


def test_everything_on_the_page_has_a_name_that_a_reader_can_say():
    page = (ROOT / "src/admin/page.html").read_text()
    for name in re.findall(r'<(?:input|select|textarea)[^>]* id="(\w+)"', page):
        assert f'<label for="{name}">' in page
    assert all("aria-label=" in tag for tag in re.findall(r"<(?:section|nav)\b[^>]*>", page))
    assert not re.findall(r"""(?:src|href)\s*=\s*["'](?:https?:)?//""", page), "it needs nothing from anywhere else"


@release_only
def test_a_page_that_may_only_look_has_no_box_and_says_what_is_refused(start, tmp_path):
    listen = {"main": {"address": "127.0.0.1:0", "protocols": ["line", "http"]}}
    looks = start(listen=listen, http={"page_publish": False})
    refused = start(listen=listen, user={"anonymous": {"publish": ["a.>"], "subscribe": ["a.>"], "monitor": True}})
    refused.publish("a.b", b"m")
    browser = Browser(tmp_path / "profile", 1000, 800, False)
    try:
        browser.call("Page.navigate", url=f"http://{looks.address()}/#topics/a")
        browser.wait("typeof samples !== 'undefined' && samples.length > 0")
        assert browser.value("getComputedStyle(document.getElementById('publish')).display") == "none"
        browser.call("Page.navigate", url=f"http://{refused.address()}/#topics/secret")
        browser.wait(text("#following") + " === 'not followed: not permitted'")
        browser.wait("samples.length > 0 && !document.getElementById('publish').hidden")
        browser.value("document.getElementById('publish').requestSubmit()")
        browser.wait(text("#said") + " === 'not published: not permitted'")
        assert browser.complaints == []
    finally:
        browser.close()


def test_axes_are_readable_before_the_first_sample_and_with_any(start, tmp_path):
    broker = start(listen={"main": {"address": "127.0.0.1:0", "protocols": ["http"]}})
    browser = Browser(tmp_path / "profile", 800, 600, False)
    try:
        browser.call("Page.navigate", url=f"http://{broker.address()}/")
        browser.wait("typeof lines !== 'undefined'")
        labels = """(values => new DOMParser().parseFromString(lines("rate", [{ color: "red", values }]), "text/html")
                     .querySelectorAll("text[text-anchor=end]"))"""
        for values, top in (("[]", "1"), ("[0, 0]", "1"), ("[NaN, 0.3]", "0.5"), ("[3, 7]", "10"), ("[1001]", "2 k"), ("[4.2e6]", "5 M")):
            shown = browser.value(f"[...{labels}({values})].map(t => t.textContent)")
            assert (shown[0], shown[2], len(shown)) == ("0", top, 4), shown
    finally:
        browser.close()


LISTENING = {"reactors": 2, "listen": {"main": {"address": "127.0.0.1:0", "protocols": ["line", "http"]}}}
EVENTS = """got = []; errors = 0; source = new EventSource("/subscribe/es");
            source.onerror = () => errors++;
            source.onmessage = e => got.push([e.lastEventId, e.data]);
            for (const kind of ["gap", "base64"]) source.addEventListener(kind, e => got.push([kind, e.data])); 1"""


def test_event_source_goes_on_after_a_cut_without_a_gap_or_a_duplicate(start, proxy, tmp_path):
    broker = start(**LISTENING)
    proxy.target = broker.address()
    browser = Browser(tmp_path / "profile", 800, 600, False)
    try:
        browser.call("Page.navigate", url=f"http://{proxy.address}/health")
        browser.value(EVENTS)
        browser.wait("source.readyState === 1")
        expected = []
        for round in range(3):
            broker.publish("es", b"before %d" % round)
            browser.wait(f"got.length === {len(expected) + 1}")
            proxy.target = None
            proxy.cut()
            browser.wait(f"errors > {round}")
            broker.publish("es", b"while %d" % round, b"away %d" % round)
            proxy.target = broker.address()
            expected += [f"{when} {round}" for when in ("before", "while", "away")]
            browser.wait(f"got.length === {len(expected)}")
        # What comes twice would have come by then.
        broker.publish("es", b"last")
        browser.wait(f"got.length > {len(expected)}")
        got = browser.value("got")
        assert [data for _, data in got] == [*expected, "last"]
        assert [int(ident.split(":")[1]) for ident, _ in got] == list(range(1, len(got) + 1))
        assert browser.complaints == []
    finally:
        browser.close()


def test_event_source_hears_of_the_gap_when_the_broker_was_started_again(start, proxy, tmp_path):
    first = start(**LISTENING)
    proxy.target = first.address()
    browser = Browser(tmp_path / "profile", 800, 600, False)
    try:
        browser.call("Page.navigate", url=f"http://{proxy.address}/health")
        browser.value(EVENTS)
        browser.wait("source.readyState === 1")
        first.publish("es", b"one", b"two")
        browser.wait("got.length === 2")
        proxy.target = None
        first.stop()
        second = start(**LISTENING)
        second.publish("es", b"three", b"four")
        proxy.target = second.address()
        browser.wait("got.length === 5")
        second.publish("es", b"five")
        browser.wait("got.length === 6")
        got = browser.value("got")
        assert [data for _, data in got if _ != "gap"] == ["one", "two", "three", "four", "five"]
        # The gap comes first, and names the oldest message that there is.
        assert got[2] == ["gap", got[3][0]] and got[3][0].endswith(":1")
        assert browser.complaints == []
    finally:
        browser.close()
