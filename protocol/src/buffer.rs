//! Large buffers used again. A fresh buffer of 2 MiB costs more to fault in than its bytes cost to seal, mask and hash,
//! so full-size buffers come back here when their last user drops them. It never keeps more than its bound, never looks
//! at the bytes and never hands a buffer to two users.

use core::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

/// Buffers of one size; clones share them.
#[derive(Clone, Debug)]
pub struct Pool(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    size: usize,
    idle_max: usize,
    idle: Mutex<Idle>,
}

#[derive(Debug, Default)]
struct Idle {
    buffers: Vec<Vec<u8>>,
    /// Whether one was taken since the last [`Pool::rest`].
    used: bool,
}

impl Pool {
    /// A pool that keeps at most `idle_max` unused buffers of `size` bytes.
    #[must_use]
    pub fn new(size: usize, idle_max: usize) -> Self {
        Self(Arc::new(Inner { size, idle_max, idle: Mutex::default() }))
    }

    /// A buffer of `length` bytes: zeros, or whatever its last user left in it. Only those of more than half the pool's
    /// size are pooled.
    #[must_use]
    pub fn take(&self, length: usize) -> Buffer {
        let mut buffer = self.recycled(length);
        buffer.bytes.resize(length, 0);
        buffer
    }

    /// A buffer without bytes that has room for `capacity` of them.
    #[must_use]
    pub fn empty(&self, capacity: usize) -> Buffer {
        let mut buffer = self.recycled(capacity);
        buffer.bytes.clear();
        buffer
    }

    /// Lets go of what is unused if nothing was taken since this was called before.
    pub fn rest(&self) {
        let mut idle = self.idle();
        if !std::mem::take(&mut idle.used) {
            idle.buffers = Vec::new();
        }
    }

    /// A buffer with room for `length` bytes, and whatever is in it.
    fn recycled(&self, length: usize) -> Buffer {
        let size = self.0.size;
        let pooled = length <= size && length > size / 2;
        if !pooled {
            return Buffer { bytes: Vec::with_capacity(length), home: None };
        }
        let mut idle = self.idle();
        idle.used = true;
        let bytes = idle.buffers.pop();
        drop(idle);
        Buffer { bytes: bytes.unwrap_or_else(|| Vec::with_capacity(size)), home: Some(self.clone()) }
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Idle> {
        self.0.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A `Vec` that goes back to its pool when dropped.
pub struct Buffer {
    bytes: Vec<u8>,
    home: Option<Pool>,
}

impl From<Vec<u8>> for Buffer {
    /// A buffer without a pool.
    fn from(bytes: Vec<u8>) -> Self {
        Self { bytes, home: None }
    }
}

impl PartialEq for Buffer {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for Buffer {}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = core::mem::take(&mut self.bytes);
        let Some(home) = self.home.take().filter(|home| bytes.capacity() == home.0.size) else {
            return;
        };
        let mut idle = home.idle();
        if idle.buffers.len() < home.0.idle_max {
            idle.buffers.push(bytes);
        }
    }
}

impl Deref for Buffer {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.bytes
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl core::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Buffer({} bytes)", self.bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: usize = 1 << 16;

    #[test]
    fn only_full_buffers_come_back_and_only_so_many() {
        let pool = Pool::new(SIZE, 2);
        let full: Vec<Buffer> = (0..3).map(|_| pool.take(SIZE)).collect();
        let first = full[0].as_ptr();
        drop((pool.take(100), pool.take(SIZE / 2), pool.take(SIZE + 1)));
        assert_eq!(pool.idle().buffers.len(), 0, "not of its size");
        drop(full);
        assert_eq!(pool.idle().buffers.len(), 2);
        let again = [pool.take(SIZE), pool.take(SIZE)];
        assert!(again.iter().any(|buffer| buffer.as_ptr() == first));
        assert_eq!(pool.take(100).capacity(), 100);
    }

    #[test]
    fn a_buffer_used_again_has_the_length_that_was_asked_for() {
        let pool = Pool::new(SIZE, 1);
        let mut buffer = pool.take(SIZE - 1);
        buffer.fill(7);
        drop(buffer);
        let empty = pool.empty(SIZE / 2 + 1);
        assert_eq!((empty.len(), empty.capacity()), (0, SIZE));
        drop(empty);
        assert!(pool.take(SIZE).iter().all(|byte| *byte == 0), "bytes that were given up do not come back");
        let mut grown = pool.empty(SIZE);
        grown.resize(SIZE + 1, 0);
        drop(grown);
        assert_eq!(pool.idle().buffers.len(), 0, "of another size now");
    }

    #[test]
    fn a_pool_at_rest_gives_its_memory_back() {
        let pool = Pool::new(SIZE, 4);
        drop(pool.take(SIZE));
        pool.rest();
        assert_eq!(pool.idle().buffers.len(), 1, "used a moment ago");
        pool.rest();
        assert_eq!(pool.idle().buffers.len(), 0);
    }
}
