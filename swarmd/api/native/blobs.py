"""Blobs in and out, streamed: never whole in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator

from swarmd.api.calls import Call, Reply
from swarmd.api.native import messages as m
from swarmd.core.errors import Refused, Unknown
from swarmd.daemon.daemon import Daemon
from swarmd.store import blobs


class BlobHandlers:
    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon

    async def put_blob(self, call: Call) -> m.BlobAnswer:
        return await self._put(call, None)

    async def put_named_blob(self, call: Call) -> m.BlobAnswer:
        return await self._put(call, digest(call))

    async def _put(self, call: Call, expected: str | None) -> m.BlobAnswer:
        self.daemon.check_space()
        assert call.chunks is not None
        async with blobs.BlobWriter(self.daemon.writer, self.daemon.clock.now()) as upload:
            async for chunk in call.chunks():
                self.daemon.check_space()
                await upload.write(chunk)
            blob = await upload.finish(sha256=expected)
        return m.BlobAnswer(sha256=blob.sha256, size=blob.size)

    async def _find(self, call: Call) -> blobs.Blob:
        sha256 = digest(call)
        blob = await blobs.find(self.daemon.backend, sha256)
        if blob is None:
            raise Unknown(
                "unknown_blob", f"there is no blob {sha256}", "upload it: PUT /api/v1/blobs/" + sha256
            )
        return blob

    async def get_blob(self, call: Call) -> Reply:
        blob = await self._find(call)
        return Reply(
            content_type="application/octet-stream",
            headers=((b"content-length", str(blob.size).encode()),),
            stream=self._parts(blob),
        )

    async def _parts(self, blob: blobs.Blob) -> AsyncIterator[bytes]:
        async for part in blobs.read_blob(self.daemon.backend, blob):
            yield part

    async def head_blob(self, call: Call) -> Reply:
        blob = await self._find(call)
        return Reply(
            content_type="application/octet-stream", headers=((b"content-length", str(blob.size).encode()),)
        )

    async def missing_blobs(self, call: Call) -> m.BlobMissing:
        wanted = list(dict.fromkeys(call.body.digests))
        here = await blobs.existing(self.daemon.backend, wanted)
        if here:  # whoever is told so will name them soon: retention must leave them alone meanwhile
            await blobs.mark_used(self.daemon.writer, here, self.daemon.clock.now())
        return m.BlobMissing(missing=[d for d in wanted if d not in here])


def digest(call: Call) -> str:
    """The digest in the path. Raises `Refused`."""
    sha256 = call.params["sha256"]
    if len(sha256) != 64 or any(c not in "0123456789abcdef" for c in sha256):
        raise Refused("bad_digest", f"{sha256[:80]!r} is no SHA-256", "give 64 lower-case hex digits")
    return sha256
