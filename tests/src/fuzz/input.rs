//! Fuzz bytes as choices, edits of good bytes, and streams that arrive in pieces. It asserts nothing.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use arbitrary::Unstructured;
use data_encoding::HEXLOWER;
use tokio::io::ReadBuf;

/// Choices that are read from the front of the input; when it is used up, every choice is zero.
#[derive(Debug)]
pub struct Input<'a>(Unstructured<'a>);

impl<'a> Input<'a> {
    /// All of `data`.
    #[must_use]
    pub fn new(data: &'a [u8]) -> Self {
        Self(Unstructured::new(data))
    }

    /// One byte.
    pub fn byte(&mut self) -> u8 {
        self.0.arbitrary().unwrap_or(0)
    }

    /// Two bytes, little-endian.
    pub fn short(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    /// Eight bytes, little-endian.
    pub fn long(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    /// `N` bytes.
    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.byte())
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::from(self.short()).checked_rem(bound).unwrap_or(0)
    }

    /// Up to `most` bytes behind their length.
    pub fn bytes(&mut self, most: usize) -> &'a [u8] {
        let length = usize::from(self.short()).min(most).min(self.0.len());
        self.0.bytes(length).unwrap_or_default()
    }

    /// Everything that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        let length = self.0.len();
        self.0.bytes(length).unwrap_or_default()
    }

    /// Whether nothing is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Changes `bytes` in up to `most` places; says whether they are others now.
    pub fn edit(&mut self, bytes: &mut Vec<u8>, most: usize) -> bool {
        let before = bytes.clone();
        for _ in 0..self.below(most.saturating_add(1)) {
            let at = self.below(bytes.len().max(1));
            match self.byte() % 5 {
                0 => bytes.get_mut(at).map_or((), |byte| *byte ^= self.byte()),
                1 => bytes.truncate(at),
                2 => bytes.insert(at.min(bytes.len()), self.byte()),
                3 => bytes.extend_from_slice(self.bytes(64)),
                _ if at < bytes.len() => drop(bytes.remove(at)),
                _ => {}
            }
        }
        *bytes != before
    }
}

/// The bytes of the lines of a golden file whose name the filter takes.
///
/// # Panics
/// If the file is not hexadecimal: then it is no golden file of bytes.
#[must_use]
#[expect(clippy::expect_used, reason = "a golden file that is damaged must not pass as an empty one")]
pub fn golden(text: &str, wanted: impl Fn(&str) -> bool) -> Vec<Vec<u8>> {
    let lines = text.lines().filter_map(|line| line.split_once(" = ")).filter(|(name, _)| wanted(name));
    lines.map(|(_, digits)| HEXLOWER.decode(digits.as_bytes()).expect("hexadecimal")).collect()
}

/// `first`, then `rest`: a seed of a structured input.
#[must_use]
pub fn join(first: &[u8], rest: &[u8]) -> Vec<u8> {
    [first, rest].concat()
}

/// `bytes` behind their length, as [`Input::bytes`] reads them.
#[must_use]
pub fn sized(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    join(&length.to_le_bytes(), bytes.get(..usize::from(length)).unwrap_or_default())
}

/// A stream that gives its bytes in pieces of given lengths, round and round, then ends; it swallows what is written.
#[derive(Debug)]
pub struct Pieces<'a> {
    bytes: &'a [u8],
    lengths: &'a [u8],
    unit: usize,
    next: usize,
}

impl<'a> Pieces<'a> {
    /// All at once where there are no lengths.
    #[must_use]
    pub fn new(bytes: &'a [u8], lengths: &'a [u8]) -> Self {
        Self { bytes, lengths, unit: 1, next: 0 }
    }

    /// The same with lengths in this unit, where single bytes would only be slow.
    #[must_use]
    pub const fn in_units_of(self, unit: usize) -> Self {
        Self { unit, ..self }
    }

    /// The next piece, at most `room` bytes.
    pub fn take(&mut self, room: usize) -> &'a [u8] {
        let length = self.lengths.get(self.next.checked_rem(self.lengths.len()).unwrap_or(0));
        self.next = self.next.wrapping_add(1);
        let length = length.map_or(usize::MAX, |length| usize::from(*length).max(1).saturating_mul(self.unit));
        let (piece, rest) = self.bytes.split_at(length.min(room).min(self.bytes.len()));
        self.bytes = rest;
        piece
    }
}

impl tokio::io::AsyncRead for Pieces<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let piece = self.take(out.remaining());
        out.put_slice(piece);
        Poll::Ready(Ok(()))
    }
}

impl tokio::io::AsyncWrite for Pieces<'_> {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl futures::AsyncRead for Pieces<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, out: &mut [u8]) -> Poll<io::Result<usize>> {
        let piece = self.take(out.len());
        out.iter_mut().zip(piece).for_each(|(to, from)| *to = *from);
        Poll::Ready(Ok(piece.len()))
    }
}
