//! Large buffers used again. A fresh 2 MiB buffer costs more to fault in than its bytes cost to seal, mask and hash, so
//! full-size buffers come back here when their last user drops them. It never keeps more than its bound, never touches
//! the bytes and never hands a buffer to two users.

use core::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

/// Buffers of one size; clones share them.
#[derive(Clone, Debug)]
pub(super) struct Pool(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    size: usize,
    idle_max: usize,
    idle: Mutex<Vec<Vec<u8>>>,
}

impl Pool {
    /// A pool that keeps at most `idle_max` unused buffers of `size` bytes.
    pub(super) fn new(size: usize, idle_max: usize) -> Self {
        Self(Arc::new(Inner { size, idle_max, idle: Mutex::new(Vec::new()) }))
    }

    /// A buffer of `length` bytes: zeros, or whatever its last user left in it. Only full-size ones are pooled.
    pub(super) fn take(&self, length: usize) -> Buffer {
        let idle = if length == self.0.size { self.idle().pop() } else { None };
        let mut bytes = idle.unwrap_or_default();
        bytes.reserve_exact(length.saturating_sub(bytes.len()));
        bytes.resize(length, 0);
        Buffer { bytes, home: Some(self.clone()) }
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Vec<u8>>> {
        self.0.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A `Vec` that goes back to its pool when dropped.
pub(super) struct Buffer {
    bytes: Vec<u8>,
    home: Option<Pool>,
}

impl From<Vec<u8>> for Buffer {
    /// A buffer without a pool.
    fn from(bytes: Vec<u8>) -> Self {
        Self { bytes, home: None }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = core::mem::take(&mut self.bytes);
        let Some(home) = self.home.take().filter(|home| bytes.capacity() == home.0.size) else {
            return;
        };
        let mut idle = home.idle();
        if idle.len() < home.0.idle_max {
            idle.push(bytes);
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

    #[test]
    fn only_full_buffers_come_back_and_only_so_many() {
        let pool = Pool::new(1 << 16, 2);
        let full: Vec<Buffer> = (0..3).map(|_| pool.take(1 << 16)).collect();
        let first = full[0].as_ptr();
        drop(pool.take(100));
        assert_eq!(pool.idle().len(), 0, "too small to keep");
        drop(full);
        assert_eq!(pool.idle().len(), 2);
        let again = [pool.take(1 << 16), pool.take(1 << 16)];
        assert!(again.iter().any(|buffer| buffer.as_ptr() == first));
        assert_eq!(pool.take(100).capacity(), 100);
    }
}
