//! The plaintext of a page segment: length u32 LE || page bytes || zeros up to padme(4 + length). It never reads what is
//! in a page.

use shoal_protocol::SegmentNumber;
use shoal_protocol::layout::padme;
use shoal_protocol::limits::PAGE_MAX;

/// Bytes of the length in front.
const PREFIX: usize = 4;

/// Why bytes are no page plaintext, or a page makes none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PagePlainError {
    /// More bytes than a page may have.
    #[error("page of {0} bytes is over the limit of {PAGE_MAX}")]
    TooLong(usize),
    /// Shorter than its own length says, or padded to another size than Padmé's.
    #[error("page plaintext of {found} bytes where {expected} belong")]
    Length {
        /// What the length in front asks for.
        expected: u64,
        /// What is there.
        found: usize,
    },
    /// Something other than zeros behind the page.
    #[error("page padding is not zero")]
    Padding,
    /// A data segment's number.
    #[error("segment {0} is not a page")]
    Number(SegmentNumber),
}

/// The plaintext of the page segment that holds `page`.
///
/// # Errors
/// [`PagePlainError::TooLong`] where page and prefix together are over [`PAGE_MAX`].
pub fn page_plain(page: &[u8]) -> Result<Vec<u8>, PagePlainError> {
    let too_long = PagePlainError::TooLong(page.len());
    let length = u32::try_from(page.len()).ok().filter(|_| page.len() <= PAGE_MAX - PREFIX).ok_or(too_long)?;
    let padded = usize::try_from(padded_length(length)).map_err(|_| too_long)?;
    let mut out = Vec::with_capacity(padded);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(page);
    out.resize(padded, 0);
    Ok(out)
}

/// The page within the plaintext of its segment.
///
/// # Errors
/// [`PagePlainError`] unless `plain` is exactly what [`page_plain`] makes.
pub fn page_bytes(plain: &[u8]) -> Result<&[u8], PagePlainError> {
    let short = PagePlainError::Length { expected: PREFIX as u64, found: plain.len() };
    let (prefix, rest) = plain.split_first_chunk::<PREFIX>().ok_or(short)?;
    let length = u32::from_le_bytes(*prefix);
    let count = usize::try_from(length).unwrap_or(usize::MAX);
    if count > PAGE_MAX - PREFIX {
        return Err(PagePlainError::TooLong(count));
    }
    let expected = padded_length(length);
    let wrong = PagePlainError::Length { expected, found: plain.len() };
    let (page, padding) = rest.split_at_checked(count).ok_or(wrong)?;
    if plain.len() as u64 != expected {
        return Err(wrong);
    }
    if padding.iter().any(|byte| *byte != 0) {
        return Err(PagePlainError::Padding);
    }
    Ok(page)
}

fn padded_length(length: u32) -> u64 {
    padme(PREFIX as u64 + u64::from(length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_round_trip_and_only_their_own_form_is_read() {
        for length in [0, 1, 3, 4, 5, 1000, PAGE_MAX - PREFIX - 1, PAGE_MAX - PREFIX] {
            let page = vec![0xa5; length];
            let plain = page_plain(&page).unwrap();
            assert_eq!(plain.len() as u64, padme(4 + length as u64));
            assert_eq!(page_bytes(&plain).unwrap(), page);
            assert!(page_bytes(&plain[..plain.len() - 1]).is_err(), "short");
            assert!(page_bytes(&[&plain[..], &[0]].concat()).is_err(), "long");
            if plain.len() > 4 + length {
                let mut bad = plain.clone();
                bad[4 + length] = 1;
                assert_eq!(page_bytes(&bad), Err(PagePlainError::Padding));
            }
        }
        let over = PAGE_MAX - PREFIX + 1;
        assert_eq!(page_plain(&vec![0; over]), Err(PagePlainError::TooLong(over)));
        assert!(matches!(page_bytes(&[0xff; 64]), Err(PagePlainError::TooLong(_))));
        assert!(matches!(page_bytes(&[]), Err(PagePlainError::Length { .. })));
    }
}
