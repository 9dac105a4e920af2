//! The threads of a plane: one reads the device and sends what waited, one reads the sockets. Each ends when it is told to stop, and takes
//! nothing with it but packets under way. They carry what others decide.

use std::io::{self, IoSliceMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use shoal_engine::mesh::packet::ecn::Ecn;
use shoal_engine::path::Carrier;

use super::Plane;
use super::inbound::Sink;
use super::reader::Next;
use crate::vpn::system::udp::UdpSocket;
use crate::vpn::system::udp::{self, RecvMeta};
use crate::vpn::system::wake::Wake;

/// Batches received at once.
const RECEIVED: usize = 8;
/// How often frames that wait for their order are looked at, milliseconds: a third of what they may wait.
const HELD_LOOK: Duration = Duration::from_millis(10);

/// The running threads.
pub(crate) struct Threads {
    stop: Arc<AtomicBool>,
    wakes: Vec<Arc<Wake>>,
    handles: Vec<JoinHandle<()>>,
}

impl std::fmt::Debug for Threads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Threads").field("count", &self.handles.len()).finish_non_exhaustive()
    }
}

impl Threads {
    /// Starts both: without a device there are still frames of others that wait for their turn.
    ///
    /// # Errors
    /// Of the system, which has no more threads or descriptors.
    pub(crate) fn start(plane: &Arc<Plane>) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let receive_wake = Arc::new(Wake::new()?);
        let mut threads = Self {
            stop: Arc::clone(&stop),
            wakes: vec![Arc::clone(plane.wake()), Arc::clone(&receive_wake)],
            handles: vec![],
        };
        let (sending, receiving, stopped) = (Arc::clone(plane), Arc::clone(plane), Arc::clone(&stop));
        threads.spawn("shoal-vpn-out", move || send_out(&sending, &stopped))?;
        threads.spawn("shoal-vpn-in", move || read_sockets(&receiving, &receive_wake, &stop))?;
        Ok(threads)
    }

    fn spawn(&mut self, name: &str, run: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<()> {
        let named = name.to_owned();
        let report = move || {
            if let Err(error) = run() {
                tracing::error!(%error, thread = named, "a thread of the private network ended");
            }
        };
        self.handles.push(std::thread::Builder::new().name(name.to_owned()).spawn(report)?);
        Ok(())
    }

    /// Ends the threads and waits for them: they look up within milliseconds.
    pub(crate) fn stop(self) {
        self.stop.store(true, Ordering::Release);
        for wake in &self.wakes {
            let _ = wake.wake();
        }
        for handle in self.handles {
            let _ = handle.join();
        }
    }
}

fn wait(fds: &mut [PollFd<'_>], timeout: Option<Duration>) -> io::Result<()> {
    let timeout = timeout.map(|time| Timespec { tv_sec: 0, tv_nsec: i64::from(time.subsec_nanos()) });
    match poll(fds, timeout.as_ref()) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Reads packets of the device, if there is one, and sends them and what waited for its turn, until it is to stop.
fn send_out(plane: &Plane, stop: &AtomicBool) -> io::Result<()> {
    while !stop.load(Ordering::Acquire) {
        let Next::WhenWoken(timeout) = plane.serve_device()? else { continue };
        let mut fds = vec![PollFd::new(&**plane.wake(), PollFlags::IN)];
        fds.extend(plane.device().map(|device| PollFd::new(device, PollFlags::IN)));
        fds.extend(plane.full_sockets().map(|socket| PollFd::new(socket, PollFlags::OUT)));
        plane.reader_sleeps(true);
        let woken = wait(&mut fds, timeout);
        plane.reader_sleeps(false);
        woken?;
        plane.wake().take()?;
    }
    Ok(())
}

/// Reads datagrams and opens them until it is to stop.
fn read_sockets(plane: &Plane, woken: &Wake, stop: &AtomicBool) -> io::Result<()> {
    let mut memory = vec![0; udp::BUFFER_LENGTH * RECEIVED];
    let mut metas = [RecvMeta::default(); RECEIVED];
    let mut sink = Sink::default();
    while !stop.load(Ordering::Acquire) {
        let mut any = false;
        for socket in &plane.sockets {
            any |= receive(plane, &socket.udp, &mut memory, &mut metas, &mut sink)?;
        }
        let holds = plane.holds();
        if holds {
            plane.release_due(&mut sink);
        }
        if !any {
            let mut fds: Vec<PollFd<'_>> =
                plane.sockets.iter().map(|socket| PollFd::new(&socket.udp, PollFlags::IN)).collect();
            fds.push(PollFd::new(woken, PollFlags::IN));
            wait(&mut fds, holds.then_some(HELD_LOOK))?;
            woken.take()?;
        }
    }
    Ok(())
}

fn receive(
    plane: &Plane,
    socket: &UdpSocket,
    memory: &mut [u8],
    metas: &mut [RecvMeta],
    sink: &mut Sink,
) -> io::Result<bool> {
    let mut chunks = memory.chunks_mut(udp::BUFFER_LENGTH);
    let mut buffers: [IoSliceMut<'_>; RECEIVED] =
        std::array::from_fn(|_| IoSliceMut::new(chunks.next().unwrap_or_default()));
    let count = match socket.receive(&mut buffers, metas) {
        Ok(count) => count,
        Err(error) => {
            // An answer to an earlier datagram, of somebody who is not there, is no reason to stop.
            tracing::trace!(%error, "datagrams not received");
            return Ok(false);
        }
    };
    for (buffer, meta) in memory.chunks_mut(udp::BUFFER_LENGTH).zip(metas).take(count) {
        let from = Carrier::Udp(meta.addr);
        sink.outer = meta.ecn.map_or(Ecn::NotCapable, |ecn| Ecn::of(ecn as u8));
        let filled = buffer.get_mut(..meta.len).unwrap_or_default();
        for frame in filled.chunks_mut(meta.stride.max(1)) {
            plane.handle_frame(frame, from, None, sink);
        }
    }
    plane.settle(sink);
    Ok(count > 0)
}
