"""Shows the cop at work: serves the example shop, drives real HTTP traffic at it, and checks what comes back.

    python3 scripts/demo.py [--serve] [--port N]

Ends with status 1 if the traffic that passed is not the traffic that the limits promise.
"""

import argparse
import contextlib
import http.client
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

import bootstrap

if __name__ == "__main__":  # first of all, so that an older Python meets a message and not a traceback
    bootstrap.enter_venv("demo")

HOST = "127.0.0.1"
START_SECONDS = 120
STACK_BURST, STACK_PER_SECOND = 60, 1.0  # limits="60/minute" in examples/shop.py
ON_TERMINAL = sys.stdout.isatty()
COLOURS = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33"}


class Answer:
    """One response: status, header fields, body."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()

    @property
    def passed(self) -> bool:
        return self.status < 400

    def left(self, policy: str = ".*?") -> int:
        """What the RateLimit field says is left of a policy (of the first, without a name); -1 if it does not say."""
        found = re.search(rf'"{policy}";r=(\d+)', self.headers.get("RateLimit", ""))
        return int(found[1]) if found else -1


class Traffic:
    """HTTP requests to the shop, printed as they come back, and counted."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.first_at = self.asked_at = time.monotonic()
        self.admitted = 0  # by the stack-wide limit: all that passed, but for exempt routes
        self.failed_steps = 0

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(HOST, self.port, timeout=60)

    def send(self, method: str, path: str, *, key: str = "", over: http.client.HTTPConnection | None = None) -> Answer:
        connection = over or self.connection()
        headers = {"X-API-Key": key} if key else {}
        body = None
        if path == "/orders":
            body, headers["Content-Type"] = json.dumps({"product": 1}), "application/json"
        self.asked_at = time.monotonic()
        connection.request(method, path, body, headers)
        answer = Answer(connection.getresponse())
        if not over:
            connection.close()
        if answer.passed and path != "/health":
            self.admitted += 1
        return answer

    def show(self, method: str, path: str, key: str = "") -> Answer:
        answer = self.send(method, path, key=key)
        who = f"  ({key})" if key else ""
        status = paint(str(answer.status), "green" if answer.passed else "yellow")
        print(f"   {method + ' ' + path + who:34} {status}  {paint(answer.headers.get('RateLimit', ''), 'dim')}")
        return answer

    def show_until_refused(self, method: str, path: str, bound: "Bound", key: str = "") -> list[Answer]:
        """The requests that pass and the first that is refused; or one more than may pass."""
        answers = [self.show(method, path, key)]
        while answers[-1].passed and bound.allows(len(answers)) and len(answers) < 100:
            answers.append(self.show(method, path, key))
        return answers

    def verdict(self, expected: str, seen: str, kept: bool) -> None:
        self.failed_steps += not kept
        mark = paint("as promised", "green") if kept else paint("NOT AS PROMISED", "red")
        print(f"   expected: {expected}\n   seen:     {seen}  -> {mark}")
        sys.stdout.flush()
        time.sleep(1 if ON_TERMINAL else 0)  # time to read


class Bound:
    """How many requests a bucket may let pass that now begins with this many tokens: so many, and what it gains.

    It gains nothing while a step runs as fast as it should; a machine that stands still meanwhile is no broken limit.
    """

    def __init__(self, tokens: float, per_minute: float, since: float | None = None) -> None:
        self.tokens = tokens
        self.per_second = per_minute / 60
        self.began = time.monotonic() if since is None else since

    def gained(self) -> float:
        return self.per_second * (time.monotonic() - self.began)

    def allows(self, passed: int) -> bool:
        return passed <= self.tokens + self.gained()

    def kept(self, answers: list[Answer]) -> bool:
        """Whether all tokens were used, at least one, and no more than there were; then none was left."""
        passed = sum(answer.passed for answer in answers)
        return max(1, self.tokens) <= passed and self.allows(passed) and answers[-1].status == 429


def step_pass(traffic: Traffic) -> None:
    title(1, "Requests pass, and each says what is left (60/minute for this address)")
    bound = Bound(STACK_BURST, STACK_BURST)
    answers = [traffic.show("GET", "/products") for _ in range(3)]
    print(paint(f"   RateLimit-Policy: {answers[0].headers.get('RateLimit-Policy')}", "dim"))
    left = [answer.left() for answer in answers]
    traffic.verdict(
        "200 three times, and each takes one of the 60",
        f"{statuses(answers)}; {', '.join(map(str, left))} left",
        all(answer.passed for answer in answers)
        and left[0] == STACK_BURST - 1
        and STACK_BURST - 3 <= left[2] <= STACK_BURST - 3 + bound.gained(),
    )


def step_refuse(traffic: Traffic) -> Answer:
    title(2, "A limit refuses: GET /search has 30/minute with a burst of 5")
    bound = Bound(5, 30)
    answers = traffic.show_until_refused("GET", "/search?q=tea", bound)
    refusal = answers[-1]
    for name in ("Retry-After", "RateLimit", "RateLimit-Policy", "Cache-Control", "Content-Type"):
        print(f"      {name}: {refusal.headers.get(name)}")
    print(indent(pretty(refusal.body)))
    told = all(refusal.headers.get(name) for name in ("Retry-After", "RateLimit", "RateLimit-Policy"))
    problem = refusal.headers.get("Content-Type", "").startswith("application/problem+json")
    traffic.verdict(
        "5 pass, the sixth gets 429 with its fields and a problem+json body",
        f"{statuses(answers)}; fields {'there' if told else 'missing'}; body {'there' if problem else 'missing'}",
        bound.kept(answers) and told and problem,
    )
    return refusal


def step_refill(traffic: Traffic, refusal: Answer) -> None:
    refused_at = traffic.asked_at
    wait = int(refusal.headers.get("Retry-After", "2"))
    title(3, f"The bucket refills: the refusal said Retry-After: {wait}, so wait {wait} s")
    time.sleep(wait)
    # When it was refused it lacked what it gains in the seconds that Retry-After rounds up.
    bound = Bound(1 - (wait - 1) * 0.5, 30, since=refused_at)
    answers = traffic.show_until_refused("GET", "/search?q=tea", bound)
    traffic.verdict(
        "one token came back: one request passes, the next is refused", statuses(answers), bound.kept(answers)
    )


def step_exempt(traffic: Traffic) -> None:
    title(4, "An exempt route is never refused: 100 times GET /health, more than the 60/minute")
    connection = traffic.connection()
    answers = [traffic.send("GET", "/health", over=connection) for _ in range(100)]
    connection.close()
    passed = sum(answer.passed for answer in answers)
    traffic.verdict("100 pass", f"{passed} pass", passed == 100)


def step_customers(traffic: Traffic) -> None:
    title(5, "Each customer has a bucket: POST /orders, 3/minute by API key, all from one address")
    bound = Bound(3, 3)
    alice = traffic.show_until_refused("POST", "/orders", bound, "alice-key")
    bob = [traffic.show("POST", "/orders", "bob-key") for _ in range(2)]
    bound_of_strangers, strangers = Bound(3, 3), [traffic.show("POST", "/orders", "invented-1")]
    while strangers[-1].passed and bound_of_strangers.allows(len(strangers)):
        strangers.append(traffic.show("POST", "/orders", f"invented-{len(strangers) + 1}"))
    traffic.verdict(
        "alice's fourth is refused, bob's pass all the same; four invented keys share one bucket, the address's",
        f"alice {statuses(alice)}; bob {statuses(bob)}; invented {statuses(strangers)}",
        bound.kept(alice) and statuses(bob) == "201 201" and bound_of_strangers.kept(strangers),
    )


def step_burst(traffic: Traffic) -> None:
    title(6, "20 connections at the same moment: POST /cart/1 has 10/minute")
    together = threading.Barrier(20)
    answers: list[Answer] = []
    bound = Bound(10, 10)

    def client() -> None:
        connection = traffic.connection()
        connection.connect()
        together.wait(timeout=60)
        answers.append(traffic.send("POST", "/cart/1", over=connection))
        connection.close()

    clients = [threading.Thread(target=client) for _ in range(20)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join()
    passed = sum(answer.status == 201 for answer in answers)
    refused = sum(answer.status == 429 for answer in answers)
    exactly = passed >= 10 and bound.allows(passed) and passed + refused == 20
    print("   " + " ".join(paint(str(a.status), "green" if a.passed else "yellow") for a in answers))
    traffic.verdict("exactly 10 pass, 10 are refused", f"{passed} pass, {refused} are refused", exactly)


def step_bound(traffic: Traffic) -> None:
    title(7, "All routes share the stack's 60/minute: GET /products until it refuses")
    refusal = None
    while not refusal and traffic.admitted <= 10 * STACK_BURST:
        answer = traffic.send("GET", "/products")
        refusal = None if answer.passed else answer
    seconds = time.monotonic() - traffic.first_at
    bound = STACK_BURST + STACK_PER_SECOND * seconds
    traffic.verdict(
        f"over the whole demo at least {STACK_BURST} pass, and at most burst + rate * time = {bound:.1f}",
        f"{traffic.admitted} passed in {seconds:.1f} s, then {refusal.status if refusal else 'no refusal'}",
        STACK_BURST <= traffic.admitted <= bound and refusal is not None and refusal.status == 429,
    )


def demonstrate(port: int) -> bool:
    """True if all that was seen is what the limits promise."""
    traffic = Traffic(port)
    step_pass(traffic)
    refusal = step_refuse(traffic)
    step_refill(traffic, refusal)
    step_exempt(traffic)
    step_customers(traffic)
    step_burst(traffic)
    step_bound(traffic)
    if traffic.failed_steps:
        print(paint(f"\n{traffic.failed_steps} of 7 steps did not show what the limits promise.", "red"))
    else:
        print(paint("\nAll 7 steps showed what the limits promise.", "green"))
    return not traffic.failed_steps


@contextlib.contextmanager
def served_shop(port: int):
    """The example shop on this port, by uvicorn in a process of its own that ends with the block."""
    command = [sys.executable, "-m", "uvicorn", "examples.shop:app", "--lifespan", "on", "--host", HOST]
    command += ["--port", str(port), "--log-level", "warning"]
    environment = dict(os.environ, TRAFFIC_COP_BACKEND="memory://")
    with tempfile.TemporaryFile() as log:
        # A session of its own: Ctrl-C reaches the demo alone, which then ends the server.
        server = subprocess.Popen(
            command, cwd=bootstrap.ROOT, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            if not answers_in_time(server, port):
                log.seek(0)
                raise SystemExit(f"The shop did not start. It said:\n{indent(log.read().decode(errors='replace'))}")
            yield server
        finally:
            server.terminate()
            try:
                server.wait(timeout=20)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def answers_in_time(server: subprocess.Popen, port: int) -> bool:
    deadline = time.monotonic() + START_SECONDS
    while server.poll() is None and time.monotonic() < deadline:
        try:
            connection = http.client.HTTPConnection(HOST, port, timeout=2)
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return True
        except OSError:
            time.sleep(0.05)
        finally:
            connection.close()
    return False


def free_port(wanted: int) -> int:
    if not wanted:
        # Below those that systems give to outgoing connections: none of them takes it before the shop does.
        for port in random.sample(range(15_000, 32_000), 100):
            with contextlib.suppress(SystemExit):
                return free_port(port)
    with socket.socket() as probe:
        if os.name != "nt":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, wanted))
        except (OSError, OverflowError) as error:
            raise SystemExit(f"Port {wanted} cannot be used ({error}). Choose another: --port 8010") from None
        return probe.getsockname()[1]


def by_hand(url: str) -> str:
    return f"""
   curl -i '{url}/products'
   for i in 1 2 3 4 5 6; do curl -s -o /dev/null -w '%{{http_code}}\\n' '{url}/search?q=tea'; done
   curl -i '{url}/search?q=tea'
   curl -i -X POST '{url}/orders' -H 'X-API-Key: alice-key' -H 'Content-Type: application/json' -d '{{"product": 1}}'
   curl -i '{url}/health'
"""


def title(number: int, text: str) -> None:
    print(f"\n{paint(f'{number}. {text}', 'bold')}")


def statuses(answers: list[Answer]) -> str:
    return " ".join(str(answer.status) for answer in answers)


def pretty(body: bytes) -> str:
    try:
        return json.dumps(json.loads(body), indent=2)
    except ValueError:
        return body.decode(errors="replace")


def indent(text: str) -> str:
    return "\n".join("      " + line for line in text.splitlines())


def paint(text: str, colour: str) -> str:
    if not ON_TERMINAL or "NO_COLOR" in os.environ or not text:
        return text
    return f"\x1b[{COLOURS[colour]}m{text}\x1b[0m"


def end(signum: int, frame: object) -> None:
    raise SystemExit(128 + signum)  # so that the server is ended on the way out


def main() -> int:
    parser = argparse.ArgumentParser(description="See the cop at work on real HTTP traffic.")
    parser.add_argument("--serve", action="store_true", help="keep the shop up afterwards, until Ctrl-C")
    parser.add_argument("--port", type=int, default=0, help="the port on 127.0.0.1 (by default any free one)")
    options = parser.parse_args()
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), end)

    port = free_port(options.port)
    url = f"http://{HOST}:{port}"
    try:
        print(f"A FastAPI shop (examples/shop.py) on {url}, its limits kept in memory")
        with served_shop(port):
            kept = demonstrate(port)
        if options.serve:
            with served_shop(port) as server:  # anew, with full buckets
                print(f"\nThe shop is up on {url} until Ctrl-C, with full buckets. Try:\n{by_hand(url)}", flush=True)
                server.wait()
        else:
            print("\nTo try it by hand, keep the shop up with `python3 scripts/demo.py --serve --port 8000`, and then:")
            print(by_hand("http://127.0.0.1:8000"))
    except KeyboardInterrupt:
        print("\nStopped.")
        return 130
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
