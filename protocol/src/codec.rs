//! The one way values become bytes and back: deterministic CBOR maps with numbered fields, strictly re-checked.
//!
//! A decoded value is re-encoded and compared with what arrived. That one rule refuses unknown fields, longer
//! spellings of numbers, reordered or repeated keys, indefinite lengths and trailing bytes. It never allocates by a
//! claimed length: every container grows as its elements are read, and the input is bounded by the caller's `limit`.

use minicbor::{Decode, Encode};

/// Why bytes are not the value they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// More bytes than this message may have.
    #[error("message of {length} bytes is over the limit of {limit}")]
    TooLong {
        /// Bytes that arrived.
        length: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// Not CBOR of this shape, or a field is out of its bounds.
    #[error("malformed message: {0}")]
    Malformed(String),
    /// Well-formed, but not the only spelling of this value, or with a field this version does not know.
    #[error("message is not in its only form: unknown field or non-canonical encoding")]
    NotCanonical,
}

/// The only encoding of `value`.
#[must_use]
pub fn encode<T: Encode<()>>(value: &T) -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    // Writing to a Vec is infallible, and no Encode of ours returns an error of its own.
    if minicbor::encode(value, &mut out).is_err() {
        unreachable!("encoding into memory cannot fail");
    }
    out
}

/// The value in `bytes`, if it is at most `limit` bytes long and exactly what [`encode`] would write.
///
/// # Errors
/// [`CodecError`] with the first reason found.
pub fn decode<T: Message>(bytes: &[u8], limit: usize) -> Result<T, CodecError> {
    if bytes.len() > limit {
        return Err(CodecError::TooLong { length: bytes.len(), limit });
    }
    let value: T = minicbor::decode(bytes).map_err(|error| CodecError::Malformed(error.to_string()))?;
    value.check().map_err(|what| CodecError::Malformed(what.into()))?;
    if encode(&value) != bytes {
        return Err(CodecError::NotCanonical);
    }
    Ok(value)
}

/// Bounds of a decoded value beyond its shape: counts, lengths, ranges. Called once, by [`decode`].
pub trait Bounded {
    /// The first bound this value breaks, as a few words.
    ///
    /// # Errors
    /// Names the broken bound.
    fn check(&self) -> Result<(), &'static str> {
        Ok(())
    }
}

/// A value this codec reads and writes.
pub trait Message: Encode<()> + for<'b> Decode<'b, ()> + Bounded {}

impl<T: Encode<()> + for<'b> Decode<'b, ()> + Bounded> Message for T {}

/// `Err(what)` unless `holds`.
pub(crate) fn ensure(holds: bool, what: &'static str) -> Result<(), &'static str> {
    if holds { Ok(()) } else { Err(what) }
}

/// Byte strings and arrays of them in CBOR `bytes` form, for `#[cbor(with = "codec::bytes32")]`.
pub(crate) mod bytes_array {
    use minicbor::decode::Error as DecodeError;
    use minicbor::{Decoder, Encoder};

    pub(crate) fn encode<C, W: minicbor::encode::Write, const N: usize>(
        value: &[u8; N],
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.bytes(value)?.ok()
    }

    pub(crate) fn decode<C, const N: usize>(d: &mut Decoder<'_>, _: &mut C) -> Result<[u8; N], DecodeError> {
        d.bytes()?.try_into().map_err(|_| DecodeError::message("length of a byte string"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Encode, Decode)]
    #[cbor(map)]
    struct Sample {
        #[n(0)]
        count: u32,
        #[n(1)]
        name: Option<String>,
    }
    impl Bounded for Sample {}

    #[test]
    fn only_the_canonical_form_is_read() {
        let bytes = encode(&Sample { count: 3, name: None });
        assert_eq!(bytes, [0xa1, 0x00, 0x03]);
        assert_eq!(decode::<Sample>(&bytes, 64).unwrap(), Sample { count: 3, name: None });
        for (what, bad) in [
            ("unknown field", &[0xa2, 0x00, 0x03, 0x07, 0x01][..]),
            ("long number", &[0xa1, 0x00, 0x18, 0x03]),
            ("trailing byte", &[0xa1, 0x00, 0x03, 0x00]),
            ("indefinite map", &[0xbf, 0x00, 0x03, 0xff]),
            ("explicit null", &[0xa2, 0x00, 0x03, 0x01, 0xf6]),
            ("repeated key", &[0xa2, 0x00, 0x03, 0x00, 0x03]),
            ("short", &[0xa1, 0x00]),
        ] {
            assert!(decode::<Sample>(bad, 64).is_err(), "{what}");
        }
        assert!(matches!(decode::<Sample>(&bytes, 2), Err(CodecError::TooLong { .. })));
    }

    #[test]
    fn deep_nesting_is_refused_without_recursion() {
        let mut bytes = vec![0xa2, 0x00, 0x03, 0x05];
        bytes.extend(std::iter::repeat_n(0x81, 1_000_000));
        bytes.push(0x00);
        assert!(decode::<Sample>(&bytes, 2_000_000).is_err());
    }
}
