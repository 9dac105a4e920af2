//! Internet checksums (RFC 1071): of bytes, of pseudo headers, changed in place (RFC 1624), and half-made as the kernel
//! leaves them. It decides nothing about what is done with a wrong one.

use core::net::IpAddr;

/// A one's complement sum that is being made. Parts are added in any order; each but the last has an even length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum(u64);

impl Sum {
    /// With these bytes as big-endian 16-bit words, the last one filled up with a zero byte.
    ///
    /// Adds 32 bits at a time in the byte order of the machine, which a one's complement sum allows (RFC 1071, 2 (B)).
    /// 2^32 words of 32 bits fit the sum: 16 GiB.
    #[must_use]
    pub fn bytes(self, bytes: &[u8]) -> Self {
        let (chunks, rest) = bytes.as_chunks::<32>();
        let mut lanes = [0u64; 8];
        for chunk in chunks {
            let (words, _) = chunk.as_chunks::<4>();
            for (lane, word) in lanes.iter_mut().zip(words) {
                *lane = lane.wrapping_add(u64::from(u32::from_ne_bytes(*word)));
            }
        }
        let mut native = lanes.iter().fold(0u64, |sum, lane| sum.wrapping_add(*lane));
        let (pairs, odd) = rest.as_chunks::<2>();
        for pair in pairs {
            native = native.wrapping_add(u64::from(u16::from_ne_bytes(*pair)));
        }
        if let [last] = odd {
            native = native.wrapping_add(u64::from(u16::from_ne_bytes([*last, 0])));
        }
        self.word(u16::from_be(fold(native)))
    }

    /// With one word.
    #[must_use]
    pub const fn word(self, word: u16) -> Self {
        Self(self.0.wrapping_add(word as u64))
    }

    /// With the pseudo header of TCP, UDP or ICMPv6: addresses, protocol, length of what it covers (RFC 9293 3.1, RFC 768,
    /// RFC 8200 8.1). Addresses of two versions give a sum that fits nothing.
    #[must_use]
    pub fn pseudo(self, source: IpAddr, destination: IpAddr, protocol: u8, length: usize) -> Self {
        let sum = match source {
            IpAddr::V4(address) => self.bytes(&address.octets()),
            IpAddr::V6(address) => self.bytes(&address.octets()),
        };
        let sum = match destination {
            IpAddr::V4(address) => sum.bytes(&address.octets()),
            IpAddr::V6(address) => sum.bytes(&address.octets()),
        };
        // The length is 16 bits wide over IPv4 and 32 over IPv6; as a sum of words that is the same.
        Self(sum.0.wrapping_add(length as u64)).word(u16::from(protocol))
    }

    /// The sum as 16 bits, not inverted: what a half-made checksum field holds.
    #[must_use]
    pub const fn folded(self) -> u16 {
        fold(self.0)
    }

    /// The checksum. The sum over everything with a right checksum in it gives 0.
    #[must_use]
    pub const fn checksum(self) -> u16 {
        !fold(self.0)
    }
}

/// Four folds take any 64 bits to 16: 2^64 - 1, 2^33, 2^18, 2^16 + 2, 2^16 - 1 bound the steps.
const fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    #[expect(clippy::cast_possible_truncation, reason = "16 bits are left, see above")]
    let folded = sum as u16;
    folded
}

/// The checksum after one covered word changed (RFC 1624, equation 3).
#[must_use]
pub const fn changed(checksum: u16, from: u16, to: u16) -> u16 {
    !fold(!checksum as u64 + !from as u64 + to as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition, a word at a time, carry by carry.
    fn slow(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            if sum > 0xffff {
                sum -= 0xffff;
            }
        }
        !(sum as u16)
    }

    /// Zero has two forms in one's complement.
    fn same(a: u16, b: u16) -> bool {
        a == b || (a == 0 && b == 0xffff) || (a == 0xffff && b == 0)
    }

    #[test]
    fn the_example_of_rfc_1071() {
        // Section 3: 0001 f203 f4f5 f6f7 sum to ddf2.
        let sum = Sum::default().bytes(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!((sum.folded(), sum.checksum()), (0xddf2, 0x220d));
    }

    #[test]
    fn the_example_of_rfc_1624() {
        // Section 4: checksum dd2f, 5555 becomes 3285, gives 0000, where RFC 1141 got ffff.
        assert_eq!(changed(0xdd2f, 0x5555, 0x3285), 0x0000);
    }

    #[test]
    fn a_pseudo_header_is_its_bytes() {
        let (source, destination) = ("192.0.2.1".parse().unwrap(), "198.51.100.2".parse().unwrap());
        let spelled = [192, 0, 2, 1, 198, 51, 100, 2, 0, 17, 0x12, 0x34];
        assert_eq!(Sum::default().pseudo(source, destination, 17, 0x1234), Sum::default().bytes(&spelled).word(0));
        let (source, destination): (core::net::Ipv6Addr, core::net::Ipv6Addr) =
            ("2001:db8::1".parse().unwrap(), "fd00::5".parse().unwrap());
        let mut spelled = [source.octets(), destination.octets()].concat();
        spelled.extend([0, 1, 0x12, 0x34, 0, 0, 0, 6]);
        let sum = Sum::default().pseudo(source.into(), destination.into(), 6, 0x11234);
        assert_eq!(sum.checksum(), slow(&spelled));
    }

    #[test]
    fn every_fold_is_right_at_its_edges() {
        for sum in [0, 1, 0xffff, 0x1_0000, 0xffff_ffff, u64::MAX, u64::MAX - 1, 0xffff_ffff_0000_0000] {
            let expected = match sum % 0xffff {
                0 if sum > 0 => 0xffff,
                rest => rest as u16,
            };
            assert_eq!(fold(sum), expected, "{sum:#x}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(4096) })]

        #[test]
        fn sums_agree_with_the_definition(bytes in proptest::collection::vec(any::<u8>(), 0..400), cut in 0usize..400) {
            prop_assert_eq!(Sum::default().bytes(&bytes).checksum(), slow(&bytes));
            let (front, back) = bytes.split_at((cut & !1).min(bytes.len() & !1));
            prop_assert_eq!(Sum::default().bytes(front).bytes(back).checksum(), slow(&bytes));
        }

        #[test]
        fn changes_agree_with_a_new_sum(mut words in proptest::collection::vec(any::<[u8; 2]>(), 1..50), at: prop::sample::Index, to: [u8; 2]) {
            let before = slow(&words.concat());
            let at = at.index(words.len());
            let from = core::mem::replace(&mut words[at], to);
            let after = changed(before, u16::from_be_bytes(from), u16::from_be_bytes(to));
            prop_assert!(same(after, slow(&words.concat())));
        }
    }
}
