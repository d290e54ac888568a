# Gets N bytes over HTTP/3 and compares them. Arguments: the certificate, the server's port, and N.
import asyncio, sys, time

from aioquic.asyncio import QuicConnectionProtocol, connect
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration


class Client(QuicConnectionProtocol):
    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)
        self.http, self.status, self.body = H3Connection(self._quic), None, bytearray()
        self.done = asyncio.get_running_loop().create_future()

    def get(self, path):
        stream = self._quic.get_next_available_stream_id()
        head = [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"localhost"), (b":path", path)]
        self.http.send_headers(stream, head, end_stream=True)
        self.transmit()
        return self.done

    def quic_event_received(self, event):
        for event in self.http.handle_event(event):
            if isinstance(event, HeadersReceived):
                self.status = dict(event.headers)[b":status"]
            if isinstance(event, DataReceived):
                self.body += event.data
                if event.stream_ended:
                    self.done.set_result(None)


async def main(certificate, port, length):
    configuration = QuicConfiguration(alpn_protocols=H3_ALPN, server_name="localhost")
    configuration.load_verify_locations(certificate)
    async with connect("127.0.0.1", int(port), configuration=configuration, create_protocol=Client) as client:
        began = time.monotonic()
        await client.get(b"/" + length.encode())
        took = time.monotonic() - began
        assert client.status == b"200", client.status
        assert client.body == bytes(n % 251 for n in range(int(length))), "wrong bytes"
        print(f"{length} bytes at {int(length) * 8e-6 / took:.1f} Mbit/s")


asyncio.run(asyncio.wait_for(main(*sys.argv[1:]), 60))
