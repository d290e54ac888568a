# Answers GET /N by N bytes over HTTP/3. Arguments: the certificate, its key, and a file into which it writes its port.
import asyncio, os, sys

from aioquic.asyncio import QuicConnectionProtocol, serve
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import HeadersReceived
from aioquic.quic.configuration import QuicConfiguration


class Server(QuicConnectionProtocol):
    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)
        self.http = H3Connection(self._quic)

    def quic_event_received(self, event):
        for event in self.http.handle_event(event):
            if isinstance(event, HeadersReceived):
                length = int(dict(event.headers)[b":path"][1:])
                self.http.send_headers(event.stream_id, [(b":status", b"200")])
                self.http.send_data(event.stream_id, bytes(n % 251 for n in range(length)), end_stream=True)
                self.transmit()


async def main(certificate, key, told):
    configuration = QuicConfiguration(is_client=False, alpn_protocols=H3_ALPN)
    configuration.load_cert_chain(certificate, key)
    server = await serve("127.0.0.1", 0, configuration=configuration, create_protocol=Server)
    with open(told + ".new", "w") as file:
        file.write(str(server._transport.get_extra_info("sockname")[1]))
    os.rename(told + ".new", told)
    await asyncio.Event().wait()


asyncio.run(main(*sys.argv[1:]))
