//! What a handshake message has to show before it takes a place in any queue: its length, and that whoever made it knows
//! this node's mesh key. Immutable, so that every thread that receives checks by itself. It admits nobody: what passes is
//! judged by [`super::Gate`] and the sessions as if nobody had looked.

use shoal_protocol::NetworkId;
use shoal_protocol::mesh::session::handshake::{
    COOKIE_REPLY, HANDSHAKE_MAC, HandshakeMac, INITIATION, INITIATION_BEFORE_MAC1, Mac1Key, RESPONSE,
    RESPONSE_BEFORE_MAC1,
};
use shoal_protocol::mesh::session::{MessageKind, SESSION_VERSION};

use super::drops::Dropped;
use super::gate::{OWN_KEYS_MAX, is};

/// The own mesh keys of one network, as far as MAC1 needs them.
#[derive(Clone, Debug)]
pub struct Sieve {
    /// At most [`OWN_KEYS_MAX`].
    keys: Vec<Mac1Key>,
}

impl Sieve {
    /// For messages to these mesh keys, newest first; beyond [`OWN_KEYS_MAX`] none counts.
    #[must_use]
    pub fn new<'a>(network: &NetworkId, own: impl IntoIterator<Item = &'a [u8; 32]>) -> Self {
        Self { keys: own.into_iter().take(OWN_KEYS_MAX).map(|public| Mac1Key::new(network, public)).collect() }
    }

    /// Whether the message in `bytes` is worth anybody's while. It costs a hash of 200 bytes for each own key.
    ///
    /// A cookie reply has no MAC1: only who awaits one can tell whether it is genuine, so whoever calls bounds how many
    /// of them he passes on.
    ///
    /// # Errors
    /// [`Dropped::Malformed`] for another length or no handshake message, [`Dropped::Version`] for an initiation of
    /// another version, [`Dropped::BadMac1`].
    pub fn examine(&self, bytes: &[u8]) -> Result<MessageKind, Dropped> {
        let kind = bytes.first().copied().and_then(MessageKind::of_first_byte).ok_or(Dropped::Malformed)?;
        let (length, before) = match kind {
            MessageKind::Initiation => (INITIATION, INITIATION_BEFORE_MAC1),
            MessageKind::Response => (RESPONSE, RESPONSE_BEFORE_MAC1),
            MessageKind::CookieReply if bytes.len() == COOKIE_REPLY => return Ok(kind),
            MessageKind::CookieReply | MessageKind::Data => return Err(Dropped::Malformed),
        };
        if bytes.len() != length {
            return Err(Dropped::Malformed);
        }
        if kind == MessageKind::Initiation && bytes.get(1) != Some(&SESSION_VERSION) {
            return Err(Dropped::Version);
        }
        let (before, rest) = bytes.split_at_checked(before).ok_or(Dropped::Malformed)?;
        let shown: &HandshakeMac = rest.first_chunk::<HANDSHAKE_MAC>().ok_or(Dropped::Malformed)?;
        let is_ours = self.keys.iter().any(|key| is(&key.mac(before), shown));
        if is_ours { Ok(kind) } else { Err(Dropped::BadMac1) }
    }
}

#[cfg(test)]
mod tests {
    use shoal_protocol::mesh::session::SessionIndex;
    use shoal_protocol::mesh::session::handshake::{CookieReply, Initiation, Response, mac1};

    use super::*;

    const NETWORK: NetworkId = NetworkId::from_bytes([7; 32]);

    fn initiation(to: &[u8; 32]) -> Vec<u8> {
        let mut message = Initiation {
            sender: SessionIndex(9),
            introduction: [1; 18],
            noise: [2; 107],
            mac1: [0; 16],
            mac2: [3; 16],
        };
        message.mac1 = mac1(&NETWORK, to, &message.to_bytes()[..INITIATION_BEFORE_MAC1]);
        message.to_bytes().to_vec()
    }

    fn response(to: &[u8; 32]) -> Vec<u8> {
        let mut message =
            Response { sender: SessionIndex(9), receiver: SessionIndex(8), noise: [2; 51], mac1: [0; 16] };
        message.mac1 = mac1(&NETWORK, to, &message.to_bytes()[..RESPONSE_BEFORE_MAC1]);
        message.to_bytes().to_vec()
    }

    #[test]
    fn messages_to_either_own_key_pass_and_to_no_other() {
        let (newest, before, other) = ([1; 32], [2; 32], [3; 32]);
        let sieve = Sieve::new(&NETWORK, [&newest, &before, &other]);
        for key in [&newest, &before] {
            assert_eq!(sieve.examine(&initiation(key)), Ok(MessageKind::Initiation));
            assert_eq!(sieve.examine(&response(key)), Ok(MessageKind::Response));
        }
        // A third key is one too many, and the same keys in another network are others.
        let elsewhere = Sieve::new(&NetworkId::from_bytes([8; 32]), [&newest, &before]);
        for message in [initiation(&other), response(&other)] {
            assert_eq!(sieve.examine(&message), Err(Dropped::BadMac1));
            assert_eq!(elsewhere.examine(&message), Err(Dropped::BadMac1));
        }
        assert_eq!(elsewhere.examine(&initiation(&newest)), Err(Dropped::BadMac1));
    }

    #[test]
    fn every_bit_before_and_in_mac1_counts() {
        let key = [1; 32];
        let sieve = Sieve::new(&NETWORK, [&key]);
        for (message, covered) in
            [(initiation(&key), INITIATION_BEFORE_MAC1 + HANDSHAKE_MAC), (response(&key), RESPONSE)]
        {
            for bit in 0..8 * message.len() {
                let mut changed = message.clone();
                changed[bit / 8] ^= 1 << (bit % 8);
                // MAC2 behind an initiation is the gate's to judge.
                let passes = bit >= 8 * covered;
                assert_eq!(sieve.examine(&changed).is_ok(), passes, "bit {bit}");
            }
        }
    }

    #[test]
    fn other_lengths_kinds_and_versions_are_named() {
        let key = [1; 32];
        let sieve = Sieve::new(&NETWORK, [&key]);
        let cookie = CookieReply { receiver: SessionIndex(8), salt: [1; 32], sealed: [2; 32] }.to_bytes().to_vec();
        assert_eq!(sieve.examine(&cookie), Ok(MessageKind::CookieReply));
        for message in [initiation(&key), response(&key), cookie] {
            for length in 0..message.len() {
                assert_eq!(sieve.examine(&message[..length]), Err(Dropped::Malformed), "{length}");
            }
            assert_eq!(sieve.examine(&[&message[..], &[0]].concat()), Err(Dropped::Malformed));
        }
        let mut later = initiation(&key);
        later[1] += 1;
        assert_eq!(sieve.examine(&later), Err(Dropped::Version));
        assert_eq!(sieve.examine(&[0xa4; INITIATION]), Err(Dropped::Malformed));
        assert_eq!(sieve.examine(&[0; INITIATION]), Err(Dropped::Malformed));
    }
}
