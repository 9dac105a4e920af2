//! Where a peer has shown that it is: an address is used only after a challenge sent there was answered. It sends nothing
//! itself and knows nothing of frames.

use std::collections::{BTreeMap, VecDeque};

use shoal_protocol::mesh::session::content::TOKEN;
use subtle::ConstantTimeEq;

use crate::path::Carrier;

/// Addresses of one peer that are remembered as its own: as many as there are path ids for them.
pub const VALIDATED_MAX: usize = crate::path::UDP_PATHS_MAX;
/// Challenges of one peer under way: an address from which frames only seem to come can hold up no more than the others.
pub const CHALLENGES_MAX: usize = 4;
/// An answer that takes longer counts no more, milliseconds: longer than any way around the earth with a bad queue in it.
pub const CHALLENGE_MS: u64 = 3_000;

#[derive(Debug)]
struct Challenge {
    token: [u8; TOKEN],
    sent_ms: u64,
}

/// The addresses of one peer.
#[derive(Debug, Default)]
pub(super) struct Roaming {
    /// Oldest first, at most [`VALIDATED_MAX`].
    validated: VecDeque<Carrier>,
    /// At most [`CHALLENGES_MAX`].
    challenges: BTreeMap<Carrier, Challenge>,
}

impl Roaming {
    /// A frame came from there: the token to send there, if that is still to be asked.
    pub(super) fn heard(
        &mut self,
        from: Carrier,
        uptime_ms: u64,
        random: &mut dyn FnMut(&mut [u8]),
    ) -> Option<[u8; TOKEN]> {
        self.challenges.retain(|_, challenge| uptime_ms.saturating_sub(challenge.sent_ms) < CHALLENGE_MS);
        if self.is_validated(from) || self.challenges.contains_key(&from) || self.challenges.len() >= CHALLENGES_MAX {
            return None;
        }
        let mut token = [0; TOKEN];
        random(&mut token);
        self.challenges.insert(from, Challenge { token, sent_ms: uptime_ms });
        Some(token)
    }

    /// An answer came, whichever way: the address it proves, if it does.
    pub(super) fn answered(&mut self, token: &[u8; TOKEN], uptime_ms: u64) -> Option<Carrier> {
        let fits = |(_, challenge): &(&Carrier, &Challenge)| {
            uptime_ms.saturating_sub(challenge.sent_ms) < CHALLENGE_MS && bool::from(challenge.token.ct_eq(token))
        };
        let carrier = *self.challenges.iter().find(fits)?.0;
        self.challenges.remove(&carrier);
        if self.validated.len() >= VALIDATED_MAX {
            self.validated.pop_front();
        }
        self.validated.push_back(carrier);
        Some(carrier)
    }

    /// Whether `carrier` may be sent to: an address that was challenged, or what is not an address.
    pub(super) fn is_validated(&self, carrier: Carrier) -> bool {
        !matches!(carrier, Carrier::Udp(_)) || self.validated.contains(&carrier)
    }

    /// The address is not in use any more and would have to be shown again.
    pub(super) fn forget(&mut self, carrier: Carrier) {
        self.validated.retain(|known| *known != carrier);
        self.challenges.remove(&carrier);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(port: u16) -> Carrier {
        Carrier::Udp((core::net::Ipv4Addr::LOCALHOST, port).into())
    }

    #[test]
    fn only_a_timely_answer_proves_an_address_and_only_the_challenged_one() {
        let mut roaming = Roaming::default();
        let token = roaming.heard(at(1), 0, &mut |out| out.fill(7)).unwrap();
        assert_eq!(roaming.heard(at(1), 1, &mut |out| out.fill(8)), None, "asked once");
        assert!(!roaming.is_validated(at(1)));
        assert_eq!(roaming.answered(&[6; TOKEN], 10), None);
        assert_eq!(roaming.answered(&token, CHALLENGE_MS), None, "too late");
        assert_eq!(roaming.answered(&token, 10), Some(at(1)));
        assert_eq!(roaming.answered(&token, 10), None, "an answer counts once");
        assert!(roaming.is_validated(at(1)) && !roaming.is_validated(at(2)) && roaming.is_validated(Carrier::Lanes));
        roaming.forget(at(1));
        assert!(!roaming.is_validated(at(1)));
    }

    #[test]
    fn many_addresses_take_no_more_room_than_allowed() {
        let mut roaming = Roaming::default();
        let mut draw = 0_u8;
        let mut asked = 0;
        for port in 0..1000 {
            draw = draw.wrapping_add(1);
            asked += usize::from(roaming.heard(at(port), 0, &mut |out| out.fill(draw)).is_some());
        }
        assert_eq!(asked, CHALLENGES_MAX);
        for port in 0..100 {
            let now = u64::from(port + 1) * CHALLENGE_MS;
            let token = roaming.heard(at(port), now, &mut |out| out.fill(port as u8)).unwrap();
            roaming.answered(&token, now).unwrap();
        }
        assert_eq!((roaming.validated.len(), roaming.challenges.len()), (VALIDATED_MAX, 0));
    }
}
