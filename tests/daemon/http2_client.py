"""A client of HTTP/2 that can do what no client should."""

import h2.config
import h2.connection
import h2.events
import trio


class H2Client:
    """`events` are those that nobody has waited for."""

    def __init__(self, stream, host=b"a", acknowledges=True):
        self.stream = stream
        self.host = host
        self.acknowledges = acknowledges  # gives the server its window back
        config = h2.config.H2Configuration(header_encoding=None, validate_outbound_headers=False)
        self.h2 = h2.connection.H2Connection(config)
        self.h2.initiate_connection()
        self.events = []
        self.came = b""

    async def ask(self, path, body=None, end=True, method=None, more=()):
        stream_id = self.h2.get_next_available_stream_id()
        method = method or (b"GET" if body is None else b"POST")
        fields = [(b":method", method), (b":path", path), (b":scheme", b"http"), (b":authority", self.host)]
        fields += more
        self.h2.send_headers(stream_id, fields, end_stream=body is None and end)
        if body is not None:
            self.h2.send_data(stream_id, body, end_stream=end)
        await self.flush()
        return stream_id

    async def flush(self):
        if data := self.h2.data_to_send():
            await self.stream.send_all(data)

    def kept(self, kind, stream_id=None):
        """The next event of that kind, of that stream, that came already."""
        for at, event in enumerate(self.events):
            if isinstance(event, kind) and stream_id in (None, getattr(event, "stream_id", 0)):
                return self.events.pop(at)
        return None

    async def wait(self, kind, stream_id=None):
        """The next event of that kind, of that stream; None if the server closes first."""
        while True:
            if (event := self.kept(kind, stream_id)) is not None:
                return event
            if not await self.more():
                return None

    async def more(self):
        """Reads once, and keeps what comes. False: the server has closed."""
        try:
            data = await self.stream.receive_some(2**16)
        except trio.BrokenResourceError:
            return False
        self.came += data
        while len(self.came) >= (size := 9 + int.from_bytes(self.came[:3], "big")):
            frame, self.came = self.came[:size], self.came[size:]
            if frame[3] == 7:  # GOAWAY: our own h2 takes nothing after it, though answers may follow
                goodbye = h2.events.ConnectionTerminated()
                goodbye.last_stream_id = int.from_bytes(frame[9:13], "big")
                goodbye.error_code = int.from_bytes(frame[13:17], "big")
                self.events.append(goodbye)
                continue
            for event in self.h2.receive_data(frame):
                if isinstance(event, h2.events.DataReceived) and self.acknowledges:
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                self.events.append(event)
        try:
            await self.flush()
        except trio.BrokenResourceError:
            pass  # what came before may still be read
        return bool(data)

    async def status(self, stream_id):
        head = await self.wait(h2.events.ResponseReceived, stream_id)
        return int(dict(head.headers)[b":status"])
