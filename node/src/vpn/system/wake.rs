//! A wake-up for a thread that polls: a counter in the kernel (eventfd) that becomes readable. It carries no message.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

/// Wakes a thread that polls [`AsFd::as_fd`] for reading. Many wakes before it looks are one.
#[derive(Debug)]
pub struct Wake {
    counter: OwnedFd,
}

impl Wake {
    /// One that has not been woken.
    ///
    /// # Errors
    /// If the system is out of descriptors or memory.
    pub fn new() -> io::Result<Self> {
        Ok(Self { counter: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)? })
    }

    /// Makes the descriptor readable; never blocks.
    ///
    /// # Errors
    /// None that is known: a full counter (2^64 - 2 wakes) is a thread that will wake anyway.
    pub fn wake(&self) -> io::Result<()> {
        match rustix::io::retry_on_intr(|| rustix::io::write(&self.counter, &1_u64.to_ne_bytes())) {
            Ok(_) | Err(Errno::AGAIN) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes it unreadable again and says whether it was woken since the last time. Call it before looking for work: what
    /// is handed over after that wakes again.
    ///
    /// # Errors
    /// None that is known.
    pub fn take(&self) -> io::Result<bool> {
        let mut count = [0; 8];
        match rustix::io::retry_on_intr(|| rustix::io::read(&self.counter, &mut count)) {
            Ok(_) => Ok(true),
            Err(Errno::AGAIN) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.counter.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use std::sync::Arc;
    use std::time::Duration;

    fn readable(wake: &Wake, wait: Timespec) -> bool {
        poll(&mut [PollFd::new(wake, PollFlags::IN)], Some(&wait)).unwrap() == 1
    }

    #[test]
    fn many_wakes_are_one_and_reach_a_thread_that_polls() {
        let wake = Arc::new(Wake::new().unwrap());
        assert!(!wake.take().unwrap());
        wake.wake().unwrap();
        wake.wake().unwrap();
        assert!(readable(&wake, Timespec::default()));
        assert!(wake.take().unwrap());
        assert!(!wake.take().unwrap() && !readable(&wake, Timespec::default()));

        let far = Arc::clone(&wake);
        let waker = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            far.wake().unwrap();
        });
        assert!(readable(&wake, Timespec { tv_sec: 10, tv_nsec: 0 }), "a poll of ten seconds was not ended");
        waker.join().unwrap();
    }
}
