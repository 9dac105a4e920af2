// A stock js-libp2p peer over TCP, Noise and Yamux. It knows nothing of Shoal: it connects to an address, or waits for a
// connection, and says in one line of JSON what it saw. It decides nothing; the test does.
//
//   node peer.mjs dial ADDRESS
//   node peer.mjs listen

import './older.mjs'

import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { identify } from '@libp2p/identify'
import { ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'

const PINGS = 3
const WAIT_MS = 20_000

const say = (value) => console.log(JSON.stringify(value))

const [mode, address] = process.argv.slice(2)
const peer = await createLibp2p({
  addresses: { listen: mode === 'listen' ? ['/ip4/127.0.0.1/tcp/0'] : [] },
  transports: [tcp()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  services: { identify: identify(), ping: ping() }
})

// Before anything is dialled, so that no event is missed.
const identified = new Promise((resolve, reject) => {
  peer.addEventListener('peer:identify', (event) => resolve(event.detail))
  setTimeout(() => reject(new Error('not identified in time')), WAIT_MS).unref()
})
if (mode === 'dial') {
  await peer.dial(multiaddr(address), { signal: AbortSignal.timeout(WAIT_MS) })
} else {
  say({ address: peer.getMultiaddrs()[0].toString() })
}

const seen = await identified
const connection = seen.connection
const pings = []
for (let count = 0; count < PINGS; count += 1) {
  pings.push(await peer.services.ping.ping(connection.remotePeer, { signal: AbortSignal.timeout(WAIT_MS) }))
}
say({
  peer: connection.remotePeer.toString(),
  identified: seen.peerId.toString(),
  direction: connection.direction,
  security: connection.encryption,
  muxer: connection.multiplexer,
  agent: seen.agentVersion,
  protocols: seen.protocols,
  pings
})
await peer.stop()
process.exit(0)
