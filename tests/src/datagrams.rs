//! Batches of datagrams as programs send them that know UDP_SEGMENT: one call, one super-packet where the device takes
//! such, and at the far end one datagram after the other.

use std::io::IoSliceMut;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use shoal_node::vpn::system::udp::{BUFFER_LENGTH, Batch, RecvMeta, Sent, UdpOptions, UdpSocket, datagrams};

use crate::sample::bytes;
use crate::space::Space;

/// How long a batch may take to come.
const PATIENCE: Duration = Duration::from_secs(2);
/// Times what is missing of a batch is sent again before it is given up: IP promises nothing.
const TRIES: usize = 3;

/// Sends `count` datagrams of `length` bytes in batches of `batch`, each batch after the one before has come; how often a
/// batch had to be sent again.
///
/// # Errors
/// If one never comes whole, or anything comes that was not sent.
pub fn send(from: &Space, to: &Space, address: IpAddr, count: usize, length: usize, batch: usize) -> Result<usize> {
    let any = if address.is_ipv4() { IpAddr::from(Ipv4Addr::UNSPECIFIED) } else { Ipv6Addr::UNSPECIFIED.into() };
    let open = |space: &Space| space.inside(|| Ok(UdpSocket::open(&UdpOptions::new(SocketAddr::new(any, 0)))?));
    let (near, far) = (open(from)?, open(to)?);
    let target = SocketAddr::new(address, far.facts().local.port());
    let mut again = 0;
    for (number, first) in (0u64..).zip((0..count).step_by(batch)) {
        let content = bytes(number, batch.min(count - first) * length);
        let expected: Vec<&[u8]> = content.chunks(length).collect();
        let whole = (0..TRIES).find_map(|tried| {
            let sent = near.send(&Batch { to: target, from: None, ecn: None, bytes: &content, length });
            let came = sent.map_err(anyhow::Error::from).and_then(|sent| {
                ensure!(sent == Sent::All, "{sent:?}");
                receive(&far, expected.len())
            });
            match came {
                Ok(came) if came.len() < expected.len() => None,
                Ok(came) => Some(Ok((tried, came))),
                Err(error) => Some(Err(error)),
            }
        });
        let Some(whole) = whole else { anyhow::bail!("batch {number} to {address} never came whole") };
        let (tried, came) = whole?;
        ensure!(came == expected, "batch {number} to {address} came as another one");
        again += tried;
    }
    Ok(again)
}

/// As many datagrams as come within the time one may take.
fn receive(far: &UdpSocket, count: usize) -> Result<Vec<Vec<u8>>> {
    let (mut buffer, mut metas) = (vec![0; BUFFER_LENGTH], [RecvMeta::default()]);
    let (mut came, begun) = (Vec::new(), Instant::now());
    while came.len() < count && begun.elapsed() < PATIENCE {
        let got = far.receive(&mut [IoSliceMut::new(&mut buffer)], &mut metas)?;
        for meta in &metas[..got] {
            came.extend(datagrams(&buffer, meta).map(<[u8]>::to_vec));
        }
        if got == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    Ok(came)
}
