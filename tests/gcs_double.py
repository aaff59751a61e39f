"""A double of Cloud Storage's JSON interface, for the contract suite where there is no bucket.

What it imitates, over real HTTP/1.1 with kept connections:
- one bucket (404 for another), objects with generations that only go up, `metageneration`, custom metadata, sizes,
  CRC32C and MD5, `timeCreated`;
- `ifGenerationMatch` (412; 0 is "nothing is there") of uploads, at their beginning and at their end, and of deletions;
- uploads in one request (`multipart`), refused (400) where the CRC32C or MD5 that the client says is not the content's;
- uploads in several (`resumable`): 308 with `Range`, chunks of whole 256 KiB, bytes sent twice ignored, the state asked
  for by `bytes */N`, the last answer given again, 410 for one that is forgotten;
- downloads (`alt=media`) with `X-Goog-Hash`, `X-Goog-Generation`, `X-Goog-Stored-Content-Length`, ranges (206, 416);
- lists: prefix, `startOffset`, `maxResults`, pages by token, in the order of UTF-8.

Faults: `faults` by operation, one for each of its next requests; `outage`; `freeze`; `forget_uploads`.

What it does NOT imitate: credentials and permissions but by a status that a test asks for; `fields` (all fields are
always given); ACLs, versioned, retained, held, composed, encrypted and compressed objects, soft deletion, storage
classes, delimiters; rate limits; the delay with which a list could come; TLS; the XML and gRPC interfaces; how long
metadata may be. `TRAFFIC_COP_GCS_URL=gs://bucket/prefix pytest -m gcs` asks a real bucket.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import itertools
import json
import re
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from typing import Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit

import google_crc32c

from tests.doubles import HttpDouble

Fault = int | Literal["lost", "dropped", "cut", "corrupt", "part"]
"""What becomes of a request: a status that it is refused with; done, and the connection closed in place of a reply
(`lost`); not done, and closed (`dropped`); half of the bytes, and closed (`cut`: of a chunk or a download); a byte that
changes on the way (`corrupt`: of an upload or a download); half of a chunk kept, and 308 (`part`)."""
QUANTUM = 256 * 1024
REASONS = {401: "authError", 403: "forbidden", 429: "rateLimitExceeded", 503: "backendError"}


class Refused(Exception):
    """An answer that says why not."""

    def __init__(self, status: int, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason or REASONS.get(status, "invalid")


class HangUp(Exception):
    """The connection is closed in place of a reply."""


def digests(content: bytes) -> dict[str, str]:
    return {
        "crc32c": base64.b64encode(google_crc32c.value(content).to_bytes(4, "big")).decode(),
        "md5Hash": base64.b64encode(hashlib.md5(content).digest()).decode(),
    }


class Held:
    """An object that is there."""

    def __init__(self, name: str, content: bytes, generation: int, asked: Mapping[str, Any]) -> None:
        self.content = content
        self.generation = generation
        self.resource = digests(content) | {
            "kind": "storage#object",
            "name": name,
            "size": str(len(content)),
            "generation": str(generation),
            "metageneration": "1",
            "contentType": asked.get("contentType", "application/octet-stream"),
            "timeCreated": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
            "storageClass": "STANDARD",
        }
        if asked.get("metadata"):
            self.resource["metadata"] = asked["metadata"]


class Upload:
    """A resumable one, from its beginning on."""

    def __init__(self, asked: Mapping[str, Any], precondition: int | None) -> None:
        self.asked = asked
        self.precondition = precondition
        self.content = bytearray()
        self.answer: dict[str, Any] | None = None


class GcsDouble(HttpDouble):
    """The server, with one bucket."""

    def __init__(self, bucket: str = "files") -> None:
        self.bucket = bucket
        self.objects: dict[str, Held] = {}
        self.uploads: dict[str, Upload] = {}
        self.requests: list[str] = []
        """The operations that were asked for: create, start, chunk, read, stat, delete, list."""
        self.faults: dict[str, list[Fault | None]] = {}
        """By operation; `None` lets one pass."""
        self.authorized: set[str | None] = set()
        """The Authorization fields that came."""
        self.outage: int | None = None
        """A status that everything is answered with."""
        self._lock = threading.RLock()
        self._generations = itertools.count(time.time_ns() // 1000)
        self._ids = itertools.count(1)
        super().__init__()

    @property
    def endpoint(self) -> str:
        """What STORAGE_EMULATOR_HOST is to be."""
        return f"http://{self.place}"

    @property
    def url(self) -> str:
        return f"gs://{self.bucket}/some/where"

    def forget_uploads(self) -> None:
        """What becomes of resumable uploads after a week."""
        with self._lock:
            self.uploads.clear()

    def put(self, name: str, content: bytes, asked: Mapping[str, Any] | None = None) -> Held:
        """What another program does: an object, whatever is there."""
        with self._lock:
            self.objects[name] = Held(name, content, next(self._generations), asked or {})
            return self.objects[name]

    # One request

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(request.path)
        query = {key: values[-1] for key, values in parse_qs(parts.query, keep_blank_values=True).items()}
        operation, name = self._operation(request.command, parts.path, query)
        with self._lock:
            self.requests.append(operation)
            self.authorized.add(request.headers.get("authorization"))
            waiting = self.faults.get(operation)
            fault: Fault | None = self.outage or (waiting.pop(0) if waiting else None)
        length = int(request.headers.get("content-length") or 0)
        body = request.rfile.read(length // 2 if fault == "cut" and operation == "chunk" else length)
        if fault == "corrupt" and body:
            body = body.replace(b"x", b"y", 1)
        self._thawed.wait(60)
        fields: dict[str, str] = {"content-type": "application/json; charset=utf-8"}
        try:
            status, said, more = self._done(request, operation, name, query, body, fault)
            fields |= more
        except HangUp:
            request.close_connection = True
            return
        except Refused as exc:
            status = exc.status
            error = {"code": status, "message": str(exc), "errors": [{"reason": exc.reason, "message": str(exc)}]}
            said = json.dumps({"error": error}).encode()
        cut = fault == "cut" and operation == "read" and status < 300
        if fault == "corrupt" and operation == "read":
            said = bytes([said[0] ^ 1]) + said[1:]
        request.send_response(status)
        for key, value in fields.items():
            request.send_header(key, value)
        request.send_header("content-length", str(len(said)))
        request.end_headers()
        request.wfile.write(said[: len(said) // 2] if cut else said)
        request.wfile.flush()
        if cut:
            request.close_connection = True

    def _operation(self, method: str, path: str, query: Mapping[str, str]) -> tuple[str, str]:
        """What is asked for, and of which object."""
        match = re.fullmatch(r"(/upload|/download)?/storage/v1/b/([^/]+)/o(?:/([^/]+))?", path)
        if match is None:
            return f"{method} {path}", ""
        kind, bucket, name = match[1] or "", match[2], unquote(match[3] or "")
        if bucket != self.bucket:
            return "other bucket", name
        known = {
            "POST/uploadmultipart": "create",
            "POST/uploadresumable": "start",
            "PUT/uploadresumable": "chunk",
            "GET/download": "read",
            "GET": "stat" if name else "list",
            "DELETE": "delete",
        }
        asked = method + kind + query.get("uploadType", "")
        return known.get(asked, asked), name

    def _done(
        self,
        request: BaseHTTPRequestHandler,
        operation: str,
        name: str,
        query: Mapping[str, str],
        body: bytes,
        fault: Fault | None,
    ) -> tuple[int, bytes, dict[str, str]]:
        if isinstance(fault, int):
            raise Refused(fault, f"a fault of {fault}")
        if fault == "dropped":
            raise HangUp
        with self._lock:
            answer = self._route(request, operation, name, query, body, fault)
        if fault == "lost":
            raise HangUp
        return answer

    def _route(
        self,
        request: BaseHTTPRequestHandler,
        operation: str,
        name: str,
        query: Mapping[str, str],
        body: bytes,
        fault: Fault | None,
    ) -> tuple[int, bytes, dict[str, str]]:
        if operation == "other bucket":
            raise Refused(404, "The specified bucket does not exist.", "notFound")
        if operation == "create":
            asked, content = multipart(request.headers["content-type"], body)
            return 200, json.dumps(self._keep(asked, content, precondition(query))).encode(), {}
        if operation == "start":
            return self._start(json.loads(body), precondition(query))
        if operation == "chunk":
            return self._chunk(query["upload_id"], request.headers["content-range"], body, fault)
        if operation == "list":
            return 200, json.dumps(self._list(query)).encode(), {}
        if operation not in ("read", "stat", "delete"):
            raise Refused(501, f"this double knows no {operation}")
        held = self.objects.get(name)
        if held is None or query.get("generation", str(held.generation)) != str(held.generation):
            raise Refused(404, f"No such object: {self.bucket}/{name}", "notFound")
        if operation == "stat":
            return 200, json.dumps(held.resource).encode(), {}
        if operation == "read":
            return self._read(held, request.headers.get("range"))
        self._match(name, precondition(query))
        del self.objects[name]
        return 204, b"", {}

    def _match(self, name: str, wanted: int | None) -> None:
        held = self.objects.get(name)
        if wanted is not None and wanted != (held.generation if held else 0):
            raise Refused(412, "At least one of the pre-conditions you specified did not hold.", "conditionNotMet")

    def _keep(self, asked: Mapping[str, Any], content: bytes, wanted: int | None) -> dict[str, Any]:
        name = asked["name"]
        self._match(name, wanted)
        if not 0 < len(name.encode()) <= 1024:
            raise Refused(400, "The specified object name is not valid.")
        for kind, digest in digests(content).items():
            if asked.get(kind, digest) != digest:
                raise Refused(400, f"Provided {kind} {asked[kind]!r} doesn't match calculated {kind} {digest!r}.")
        return self.put(name, content, asked).resource

    def _start(self, asked: dict[str, Any], wanted: int | None) -> tuple[int, bytes, dict[str, str]]:
        self._match(asked["name"], wanted)
        id = f"upload-{next(self._ids)}"
        self.uploads[id] = Upload(asked, wanted)
        place = f"{self.endpoint}/upload/storage/v1/b/{self.bucket}/o?uploadType=resumable&upload_id={id}"
        return 200, b"", {"location": place, "x-guploader-uploadid": id}

    def _chunk(
        self, id: str, content_range: str, body: bytes, fault: Fault | None
    ) -> tuple[int, bytes, dict[str, str]]:
        upload = self.uploads.get(id)
        if upload is None:
            raise Refused(410, "The requested upload is gone.", "uploadGone")
        if upload.answer is not None:
            return 200, json.dumps(upload.answer).encode(), {}
        match = re.fullmatch(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)", content_range)
        if match is None:
            raise Refused(400, f"Failed to parse Content-Range {content_range}")
        there = len(upload.content)
        if match[1] is not None:
            start, end, last = int(match[1]), int(match[2]) + 1, match[3] == str(int(match[2]) + 1)
            if start > there or (fault != "cut" and end - start != len(body)) or (not last and len(body) % QUANTUM):
                raise Refused(400, "Invalid request: there is a gap, or the chunk is no multiple of 256 KiB.")
            if fault in ("cut", "part"):
                body = body[: len(body) // (1 if fault == "cut" else 2) // QUANTUM * QUANTUM]
                last = False
            upload.content += body[there - start :]
            if fault == "cut":
                raise HangUp
            if last:
                upload.answer = self._keep(upload.asked, bytes(upload.content), upload.precondition)
                return 200, json.dumps(upload.answer).encode(), {}
        kept = {"range": f"bytes=0-{len(upload.content) - 1}"} if upload.content else {}
        return 308, b"", kept

    def _read(self, held: Held, asked: str | None) -> tuple[int, bytes, dict[str, str]]:
        fields = {
            "content-type": str(held.resource["contentType"]),
            "x-goog-hash": f"crc32c={held.resource['crc32c']},md5={held.resource['md5Hash']}",
            "x-goog-generation": str(held.generation),
            "x-goog-metageneration": "1",
            "x-goog-stored-content-length": str(len(held.content)),
            "x-goog-stored-content-encoding": "identity",
        }
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", asked or "")
        if match is None:
            return 200, held.content, fields
        start, end = int(match[1]), int(match[2] or len(held.content) - 1)
        if start >= len(held.content):
            raise Refused(416, "The requested range cannot be satisfied.")
        fields["content-range"] = f"bytes {start}-{end}/{len(held.content)}"
        return 206, held.content[start : end + 1], fields

    def _list(self, query: Mapping[str, str]) -> dict[str, Any]:
        prefix = query.get("prefix", "").encode()
        start = max(query.get("startOffset", "").encode(), base64.urlsafe_b64decode(query.get("pageToken", "")))
        most = min(int(query.get("maxResults", 1000)), 1000)
        names = sorted(
            name for name in (each.encode() for each in self.objects) if name.startswith(prefix) and name >= start
        )
        page: dict[str, Any] = {
            "kind": "storage#objects",
            "items": [self.objects[name.decode()].resource for name in names[:most]],
        }
        if len(names) > most:
            page["nextPageToken"] = base64.urlsafe_b64encode(names[most]).decode()
        return page


def precondition(query: Mapping[str, str]) -> int | None:
    return int(query["ifGenerationMatch"]) if "ifGenerationMatch" in query else None


def multipart(content_type: str, body: bytes) -> tuple[dict[str, Any], bytes]:
    """The resource and the content of an upload in one request."""
    match = re.fullmatch(r'multipart/related; boundary="?([^"]+)"?', content_type)
    if match is None:
        raise Refused(400, f"no multipart/related: {content_type}")
    edge = b"--" + match[1].encode()
    pieces = body.split(edge)
    first = pieces[1]
    rest = body[len(pieces[0]) + 2 * len(edge) + len(first) :]
    content = rest[rest.index(b"\r\n\r\n") + 4 : rest.rindex(b"\r\n" + edge + b"--")]
    asked: dict[str, Any] = json.loads(first[first.index(b"\r\n\r\n") + 4 :])
    return asked, content


def running_double(bucket: str = "files") -> contextlib.AbstractContextManager[GcsDouble]:
    """A double, closed afterwards."""
    return contextlib.closing(GcsDouble(bucket))
