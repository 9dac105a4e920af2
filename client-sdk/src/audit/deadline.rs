//! How long an honest node may take to answer an AUDIT. An answer within it was at hand; one that came later may have
//! been fetched from somebody else.

use shoal_protocol::audit::{AuditRequest, Challenge, answer_bytes_max};

/// Slowest link an auditor waits for: 150 kB/s.
pub const FLOOR_BYTES_PER_SECOND: u64 = 150_000;
/// Slowest disk an auditor waits for, where a whole shard is read: 10 MB/s, a disk that compacts and serves others.
pub const READ_BYTES_PER_SECOND: u64 = 10_000_000;
/// What a node may wait for its disk, milliseconds: an honest one says `busy` after it.
pub const DISK_MS: u64 = 5_000;
/// Round trips allowed: the question, a window that opens in two more for an answer of 56 KiB, and one lost packet.
pub const RTTS: u64 = 4;
/// Longest round trip that counts, milliseconds: a node must not earn time by being slow to greet.
pub const RTT_MAX_MS: u64 = 2_000;
/// Bytes of request, statement and frames beside the answer.
const MESSAGE_BYTES: u64 = 2_048;

/// Milliseconds from sending `request` to the last byte of its answer, over a link with this round trip.
#[must_use]
pub fn allowed_ms(rtt_ms: u64, request: &AuditRequest) -> u64 {
    let bytes = answer_bytes_max(request.length, &request.challenge).saturating_add(MESSAGE_BYTES);
    let link = bytes.saturating_mul(1000).div_ceil(FLOOR_BYTES_PER_SECOND);
    let disk = match request.challenge {
        Challenge::Slices { .. } => 0,
        Challenge::Whole { .. } => u64::from(request.length).saturating_mul(1000).div_ceil(READ_BYTES_PER_SECOND),
    };
    let trips = rtt_ms.min(RTT_MAX_MS).saturating_mul(RTTS);
    DISK_MS.saturating_add(trips).saturating_add(link).saturating_add(disk)
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_protocol::{Nonce, ShardId};

    fn request(length: u32, challenge: Challenge) -> AuditRequest {
        AuditRequest { shard: ShardId::from_bytes([1; 32]), length, challenge, nonce: Nonce::from_bytes([0; 16]) }
    }

    #[test]
    fn time_grows_with_distance_and_size_and_has_an_end() {
        let slices = |count| request(2 << 20, Challenge::Slices { seed: [0; 32], count });
        let whole = |length| request(length, Challenge::Whole { challenge: [0; 32] });
        assert_eq!(allowed_ms(0, &slices(32)), 5_000 + (32 * (1024 + 11 * 64) + 2048_u64).div_ceil(150));
        assert_eq!(allowed_ms(100, &slices(1)) - allowed_ms(0, &slices(1)), 400);
        assert!(allowed_ms(0, &slices(1)) < allowed_ms(0, &slices(2)));
        assert_eq!(allowed_ms(0, &whole(2 << 20)), 5_000 + 14 + 210);
        assert_eq!(allowed_ms(u64::MAX, &slices(1)), allowed_ms(RTT_MAX_MS, &slices(1)));
        assert!(allowed_ms(u64::MAX, &slices(32)) < 14_000);
    }
}
