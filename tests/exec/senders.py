# Sends in every way that a program may try, once for each line of its input, and prints what came of each. The arguments
# are the ports of a page and of an echo at web.test; without them these two are left out.
import os, socket, struct, subprocess, sys

FAR4, FAR6, HUB = "203.0.113.9", "2001:db8:99::9", "198.51.100.1"


def connect(host):
    socket.create_connection((host, 80), 1).close()


def udp(host, port, length=20, options=()):
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as to:
        for option in options:
            to.setsockopt(*option)
        to.sendto(b"x" * length, (host, port))


def from_own_address():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as to:
        to.bind(("198.51.100.2", 0))
        to.sendto(b"x", (FAR4, 9998))


def raw(host, protocol, packet):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_RAW, protocol) as to:
        to.sendto(packet, (host, 0))


def whole_packet():
    """An IPv4 packet whose header is the program's, with the machine's address as its source."""
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 0, 7, 0, 64, 252, 0,
                       socket.inet_aton("198.51.100.2"), socket.inet_aton(FAR4))
    raw(FAR4, socket.IPPROTO_RAW, head + b"x")


def frames():
    """IPv6 packets of an unknown protocol, written into each interface."""
    packet = b"\x60\0\0\0\0\4\xfb\x40" + socket.inet_pton(socket.AF_INET6, "2001:db8:4::2")
    packet += socket.inet_pton(socket.AF_INET6, FAR6) + b"test"
    for name in (name for _, name in socket.if_nameindex() if name != "lo"):
        with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM) as to:
            to.sendto(packet, (name, 0x86dd, 0, 0, b"\xff" * 6))


def group():
    """Multicast DNS: joins the groups, asks, and leaves."""
    question = b"\0\0\0\0\0\1\0\0\0\0\0\0\4test\5local\0\0\1\0\1"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as to:
        to.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton("224.0.0.251") + bytes(4))
        to.sendto(question, ("224.0.0.251", 5353))


def group6():
    question = b"\0\0\0\0\0\1\0\0\0\0\0\0\4test\5local\0\0\1\0\1"
    for index, name in socket.if_nameindex():
        if name != "lo":
            with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as to:
                joined = socket.inet_pton(socket.AF_INET6, "ff02::fb") + struct.pack("@I", index)
                to.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, joined)
                to.sendto(question, ("ff02::fb", 5353, 0, index))


def on_device():
    udp(FAR4, 9997, options=[(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"out")])


def curl():
    subprocess.run(["curl", "-qsSf", "-m", "10", "-o", "/dev/null", "http://web.test:" + sys.argv[1]], check=True,
                   stderr=subprocess.DEVNULL)


def echo():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as to:
        to.settimeout(5)
        to.connect(("web.test", int(sys.argv[2])))
        to.send(b"echo")
        assert to.recv(100) == b"echo"


SERVED = {"curl": curl, "echo": echo} if len(sys.argv) > 2 else {}
WAYS = SERVED | {
    "tcp": lambda: connect(FAR4),
    "tcp6": lambda: connect(FAR6),
    "udp": lambda: udp(FAR4, 9999),
    "udp6": lambda: udp(FAR6, 9999),
    "udp-hub": lambda: udp(HUB, 4600),
    "fragments": lambda: udp(FAR4, 9996, 4000),
    "dns": lambda: udp("203.0.113.53", 53),
    "broadcast": lambda: udp("255.255.255.255", 67, options=[(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)]),
    "own-address": from_own_address,
    "device": on_device,
    "ping": lambda: raw(FAR4, socket.IPPROTO_ICMP, b"\x08\0\xf7\xff\0\0\0\0"),
    "ping6": lambda: raw(FAR6, socket.IPPROTO_ICMPV6, b"\x80\0\0\0\0\0\0\0"),
    "raw": lambda: raw(FAR4, 253, b"test"),
    "raw6": lambda: raw(FAR6, 253, b"test"),
    "whole-packet": whole_packet,
    "frames": frames,
    "group": group,
    "group6": group6,
}
print("ready", flush=True)
for _ in sys.stdin:
    said = []
    for name, way in WAYS.items():
        try:
            way()
            said.append(name + " ok")
        except Exception as error:
            said.append(f"{name} {getattr(error, 'errno', None) or type(error).__name__}")
    print(", ".join(said), flush=True)
