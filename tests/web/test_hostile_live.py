"""Some hundred hostile requests to a running page over a model: each refused with a message, and memory stays flat."""

import itertools
import json
import socket
import threading
import time
from pathlib import Path

import httpx
import pytest
from data_folder import send_raw, start_server
from test_live import TEXT, ask, finish, read_facts

from attn_viewer.web.guard import MAX_BODY, MAX_HEADERS

POSTS = ("/live/jobs", "/live/cancel", "/live/keep")
# Bytes that the resident memory of a server may grow by while it refuses all of them again.
MOST_GROWTH = 16 * 2**20


class Attacker:
    """Makes requests that are right but for one thing."""

    def __init__(self, url, secret, job):
        self.url, self.secret, self.job = url, secret, job
        self.host = url.removeprefix("http://")

    def make(self, method, path, body=b"", **headers):
        """Return the bytes of a request; a header that is None is left out, `_` in its name stands for -."""
        given = {"host": self.host, "x-secret": self.secret, "connection": "close"}
        if method == "POST":
            given |= {"origin": self.url, "content-type": "application/json", "content-length": str(len(body))}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        lines = [f"{method} {path} HTTP/1.1", *(f"{k}: {v}" for k, v in given.items() if v is not None)]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body

    def post(self, path="/live/jobs", body=b'{"prompt": "a"}', **headers):
        return self.make("POST", path, body, **headers)

    def list_foreign(self):
        """Requests of other sites, by other names of this machine, and without the page's secret."""
        origins = [
            "http://evil.example", "null", None, "file://", f"{self.url}.evil.example", f"{self.url}/", f"{self.url}0",
            "http://127.0.0.1:1", f"http://evil@{self.host}", f"{self.url}, http://evil.example", "HTTP://" + self.host,
            "chrome-extension://abc",
        ]  # fmt: skip
        port = self.host.partition(":")[2]
        hosts = [
            "evil.example", f"evil.example:{port}", f"localhost.evil.example:{port}", "127.0.0.1.evil.example",
            "127.1", "0x7f.0.0.1", "2130706433", "127.0.0.1:999999", "127.0.0.1:", "[::1", "::1", "localhost.",
            "localhost@evil.example", "localhost/evil", "", "*", "xn--lcalhost-3ya", "127.0.0.1 evil.example",
        ]  # fmt: skip
        secret = self.secret
        secrets = ["forged", "", None, secret[:-1], secret + "x", secret[::-1], secret.swapcase(), "null", "a" * 20_000]
        types = ["text/plain", "multipart/form-data; boundary=a", "application/x-www-form-urlencoded", None,
                 "text/json", "application/json, text/plain", "application/json; charset=utf-16"]  # fmt: skip
        readers = [f"/live/events?job={self.job}&from=0", f"/live/weights?job={self.job}&map=0&first=0&count=1"]
        for path in POSTS:
            yield from (self.post(path, origin=origin) for origin in origins)
            yield from (self.post(path, host=host, origin=f"http://{host}") for host in hosts)
            yield from (self.post(path, x_secret=each) for each in secrets)
            yield from (self.post(path, content_type=each) for each in types)
            yield from (self.post(path, sec_fetch_site=each) for each in ("cross-site", "same-site", "none"))
        for path in readers:
            yield from (self.make("GET", path, x_secret=each) for each in secrets)
            yield from (self.make("GET", path, host=host) for host in hosts)

    def list_bodies(self):
        """Requests whose body is no request for a job."""
        raw = [
            b"", b"{", b"nul", b"[]", b"1", b'"a"', b"null", b"NaN", b"-Infinity", b"{'prompt': 'a'}", b"\x00" * 40,
            b'{"prompt": "a",}', b'{"prompt": "a"} {}', b'{"prompt": "a"} // b',
            b'{"prompt": "\xff"}', b'{"prompt": "\\ud800"}', b'{"prompt": "\\u12"}', b'{"prompt": "\n"}',
            b'{"prompt": "a", "prompt": 1}', b'{"model": ' + b"9" * 5000 + b"}", b"[" * 30_000, b'{"a":' * 9_000,
            b'{"ids": ' + b"[" * 900 + b"]" * 900 + b"}", b"prompt=a", b"<prompt>a</prompt>", b"\x1f\x8b\x08\x00",
        ]  # fmt: skip
        yield from map(self.post, itertools.repeat(POSTS[0]), raw)
        wrong = {
            "model": [-1, "0", 1.5, None, [], {}, True, float("nan"), float("inf")],
            "what": ["x", "", 1, None, [], {}, "__init__", "Capture"],
            "prompt": [1, None, [], {}, True, ["a"], float("nan")],
            "ids": ["a", 1, [1.5], ["a"], [None], [True], {}, [[1]], {"0": 1}],
            "chat": [1, "true", None, [], {}],
            "picture": [1, None, [], {}, True],
            "other": [1, None, [], {}, True],
            "new_tokens": [0, -1, 1.5, "1", None, True, float("nan"), -(10**30)],
            "heads": [1, None, [], {}, [[1, 0]]],
            "mode": ["x", "", 1, None, [], "Zero"],
        }
        for name, values in wrong.items():
            yield from (self.post(body=json.dumps({"prompt": "a", name: value}).encode()) for value in values)
        unknown = ["path", "model_path", "file", "code", "model_id", "__class__", "__proto__", "", "prompt ", "Prompt",
                   "\0", "\u202eprompt", "ｐrompt", "device", "trust_remote_code"]  # fmt: skip
        yield from (self.post(body=json.dumps({"prompt": "a", name: "/etc/passwd"}).encode()) for name in unknown)
        names = [1, None, [], {}, "", "forged", "../../etc/passwd", "\0", self.job + " ", self.job[:-1], self.secret]
        for path in POSTS[1:]:
            yield from (self.post(path, json.dumps({"job": name}).encode()) for name in names)
        lengths = [str(MAX_BODY + 1), "1" + "0" * 12, "9" * 18, "9" * 30, "-1", "1e3", "0x10", "5, 5", ""]
        for path in POSTS:
            yield from (self.post(path, content_length=length) for length in lengths)
            yield self.post(path, b" " * (MAX_BODY + 1))
            yield self.post(path, b"2\r\n{}\r\n0\r\n\r\n", content_length=None, transfer_encoding="chunked")
            yield self.post(path, content_length=None)

    def list_addresses(self):
        """Requests for what is not there, in a way that is not answered, or with numbers that are none."""
        for number in ("-1", "1.5", "", "1e3", "%D9%A3", "99999999", "%2B1", "0x1", "%00", "%20"):
            yield self.make("GET", f"/live/events?job={self.job}&from={number}")
            for name in ("map", "first", "count"):
                words = {"map": "0", "first": "0", "count": "1", name: number}
                query = "&".join(f"{key}={value}" for key, value in words.items())
                yield self.make("GET", f"/live/weights?job={self.job}&{query}")
        for job in ("", "forged", "..%2f..%2fetc%2fpasswd", "%00", "__class__", "a" * 17_000):
            for path in ("/live/events?from=0", "/live/weights?map=0&first=0&count=1", "/live/picture?a=b"):
                yield self.make("GET", f"{path}&job={job}")
        for method in ("GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "EVIL"):
            yield from (self.make(method, path) for path in POSTS)
        for method in ("POST", "PUT", "DELETE", "OPTIONS"):
            yield from (self.make(method, path) for path in ("/", "/static/live.js", "/live/events", "/live/picture"))
        for dots in ("../", "..%2f", "%2e%2e/", "%2e%2e%2f", "..%5c", "..\\", "%252e%252e%252f", "..%c0%af", "..;/"):
            yield from (self.make("GET", f"/{start}{dots * 3}etc/passwd") for start in ("", "static/", "live/"))
            yield self.make("GET", f"/static/{dots}live.py")
        for path in ("/live", "/live/jobs/", "//live/jobs", "/live/jobs%00", "/static/", "/static/live.html%00.js"):
            yield self.make("GET", path, accept="*/*")
        yield self.make("GET", "/", x_long="a" * MAX_HEADERS)
        yield self.make("GET", "/", range="bytes=0-1")
        yield self.make("GET", "/", b"abc", content_length="3")


def read_memory(process):
    """Return the resident memory of a process in bytes."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmRSS")).split()[1])


def send_slowly(attacker, path, replies):
    """Send a byte of a body that never ends each half second, and keep what is said to it."""
    host, _, port = attacker.host.partition(":")
    with socket.create_connection((host, int(port)), timeout=60) as peer:
        peer.sendall(attacker.post(path, b"{", content_length="50"))
        peer.settimeout(0.5)
        while True:
            try:
                head = peer.recv(4096)
                peer.settimeout(60)
                replies.append(head + b"".join(iter(lambda: peer.recv(4096), b"")))
                return
            except TimeoutError:  # noqa: PERF203 - nothing was said yet
                peer.sendall(b" ")


@pytest.mark.slow
def test_a_live_server_refuses_hundreds_of_hostile_requests_with_a_message_and_its_memory_stays_flat(capsys):
    process, url = start_server("--model_path")
    try:
        with httpx.Client(base_url=url, headers={"origin": url}, timeout=60) as client:
            client.headers["x-secret"] = read_facts(client)["secret"]
            job = ask(client)
            finish(client, job)
            attacker = Attacker(url, client.headers["x-secret"], job)
            slow = []
            threads = [threading.Thread(target=send_slowly, args=(attacker, path, slow)) for path in POSTS]
            for thread in threads:
                thread.start()
            lists = attacker.list_foreign(), attacker.list_bodies(), attacker.list_addresses()
            requests = list(dict.fromkeys(itertools.chain(*lists)))
            assert len(requests) >= 300
            memory = [read_memory(process)]
            for _ in range(2):
                for request in requests:
                    check_refused(send_raw(url, request), request)
                memory.append(read_memory(process))
            start = time.monotonic()
            for thread in threads:
                thread.join()
            assert [b" 408 " in reply and b"too slowly" in reply for reply in slow] == [True] * len(POSTS)
            assert finish(client, ask(client, prompt=TEXT))["state"] == "done"
            sizes = ", ".join(f"{size / 2**20:.1f}" for size in memory)
            with capsys.disabled():
                print(f"\n{len(requests)} hostile requests, twice: {sizes} MiB; {time.monotonic() - start:.1f} s more")
            assert memory[2] - memory[1] < MOST_GROWTH
    finally:
        process.terminate()
        _, err = process.communicate()
    assert "Traceback" not in err


def check_refused(reply, request):
    head, _, body = reply.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 4"), (request[:300], reply[:300])
    for word in (b"Traceback", b'File "', b"root:", str(Path.home()).encode()):
        assert word not in reply, request[:300]
    if b"Invalid HTTP request" not in body and not request.startswith(b"HEAD"):  # before it is a request at all
        assert isinstance(json.loads(body)["error"], str), request[:300]
