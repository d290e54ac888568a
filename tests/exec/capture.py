# Captures what comes in at an interface. A frame of the type 0x88b5 asks for all kinds of packets since the last one, a
# line each, and then for the number of packets that were missed.
import ipaddress, socket, struct, sys

OUTGOING, FENCE, SOL_PACKET, PACKET_STATISTICS = 4, 0x88B5, 263, 6


def at(address, port):
    return f"{ipaddress.ip_address(address)} {port}"


def transport(protocol, source, target, rest):
    name = {1: "icmp", 2: "igmp", 6: "tcp", 17: "udp", 58: "icmp6"}.get(protocol, str(protocol))
    if protocol in (6, 17) and len(rest) >= 4:
        ports = struct.unpack("!HH", rest[:4])
        return f"{name} {at(source, ports[0])} > {at(target, ports[1])}"
    kind = f" {rest[0]}" if protocol in (1, 58) and rest else ""
    return f"{name}{kind} {ipaddress.ip_address(source)} > {ipaddress.ip_address(target)}"


def described(kind, packet):
    if kind == 0x0800:
        if struct.unpack("!H", packet[6:8])[0] & 0x1FFF:
            return f"fragment > {ipaddress.ip_address(packet[16:20])}"
        return transport(packet[9], packet[12:16], packet[16:20], packet[(packet[0] & 15) * 4:])
    if kind == 0x86DD:
        following, rest = packet[6], packet[40:]
        # Group reports have a hop-by-hop header.
        while following == 0 and len(rest) >= 2:
            following, rest = rest[0], rest[(rest[1] + 1) * 8:]
        line = transport(following, packet[8:24], packet[24:40], rest)
        if following == 58 and rest[0] == 143:
            groups = struct.unpack("!H", rest[6:8])[0]
            line += "".join(f" {ipaddress.ip_address(rest[12 + 20 * n:28 + 20 * n])}" for n in range(groups))
        return line
    if kind == 0x0806:
        return f"arp {ipaddress.ip_address(packet[24:28])}"
    return f"ethertype {kind:#06x}"


wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
wire.bind((sys.argv[1], 3))
print("ready", flush=True)
seen = set()
while True:
    frame, address = wire.recvfrom(70000)
    if address[2] == OUTGOING:
        continue
    if address[1] != FENCE:
        seen.add(described(address[1], frame[14:]))
        continue
    missed = struct.unpack("II", wire.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))[1]
    print("\n".join([*sorted(seen), f"missed {missed}"]), flush=True)
    seen.clear()
