"""A stock py-libp2p peer over TCP, Noise and Yamux. It knows nothing of Shoal: it connects to an address and says in one
line of JSON what it saw. It decides nothing; the test does.

    python peer.py ADDRESS ed25519|secp256k1
"""

import json
import sys

import multiaddr
import trio
from libp2p import new_host
from libp2p.crypto import ed25519, secp256k1, x25519
from libp2p.host.ping import PingService
from libp2p.identity.identify.identify import ID, parse_identify_response
from libp2p.network.exceptions import SwarmException
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as Noise
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX
from libp2p.stream_muxer.yamux.yamux import Yamux
from libp2p.utils.varint import read_length_prefixed_protobuf

PINGS = 3
WAIT_S = 20
KEYS = {"ed25519": ed25519.create_new_key_pair, "secp256k1": secp256k1.create_new_key_pair}


async def main(address, kind):
    key = KEYS[kind]()
    noise = Noise(key, noise_privkey=x25519.create_new_key_pair().private_key)
    # Nothing else is offered, so a connection means that these two were agreed on.
    host = new_host(key_pair=key, sec_opt={NOISE: noise}, muxer_opt={YAMUX: Yamux})
    remote = info_from_p2p_addr(multiaddr.Multiaddr(address))
    async with host.run(listen_addrs=[]):
        with trio.fail_after(WAIT_S):
            try:
                await host.connect(remote)
            except SwarmException as error:
                print(json.dumps({"failed": type(error).__name__}), flush=True)
                return
            stream = await host.new_stream(remote.peer_id, [ID])
            answer = await read_length_prefixed_protobuf(stream, use_varint_format=True)
            said = parse_identify_response(answer)
            await stream.close()
            pings = await PingService(host).ping(remote.peer_id, PINGS)
            connection = host.get_network().get_connections(remote.peer_id)[0]
        seen = {
            "peer": str(remote.peer_id),
            "key": said.public_key.hex(),
            "security": str(NOISE),
            "muxer": str(YAMUX),
            "session": type(connection.muxed_conn).__name__,
            "secured": type(connection.muxed_conn.secured_conn).__name__,
            "agent": said.agent_version,
            "protocols": list(said.protocols),
            "pings": pings,
        }
        print(json.dumps(seen), flush=True)


trio.run(main, *sys.argv[1:])
