//! What stands before a handshake: MAC1 always, a cookie under load. It multiplies no point on a curve, holds nothing of a
//! peer, and is the only one who makes an [`Admitted`].

use std::sync::Arc;

use shoal_protocol::limits::TAG;
use shoal_protocol::mesh::key::MeshKey;
use shoal_protocol::mesh::session::handshake::{
    COOKIE_REPLY, CookieReply, HANDSHAKE_MAC, HandshakeMac, INITIATION_BEFORE_MAC1, INITIATION_BEFORE_MAC2, Initiation,
    Introduction, cookie, cookie_key, mac1, mac2,
};
use shoal_protocol::mesh::session::{MessageError, SessionIndex};
use shoal_protocol::{NetworkId, Suite, UnixMillis};
use subtle::ConstantTimeEq;
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

use super::drops::{Dropped, Drops};
use super::keys::{Aead, Secret};
use super::sieve::Sieve;

/// Own keys that are answered for: the newest, and the one before it for those who have not heard yet.
pub const OWN_KEYS_MAX: usize = 2;
/// Cookies are made with a new secret after this long, milliseconds, and accepted for twice as long at most.
pub const COOKIE_SECRET_MS: u64 = 120_000;
/// Longest source a cookie is made for, bytes: an address and a port, or a node id and a word.
pub const SOURCE_MAX: usize = 64;

/// An own mesh key with its secret half, wiped when dropped.
pub struct OwnKey {
    pub(super) secret: Zeroizing<[u8; 32]>,
    record: MeshKey,
}

impl core::fmt::Debug for OwnKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "OwnKey(epoch {})", self.record.epoch)
    }
}

impl OwnKey {
    /// The key of 32 fresh random bytes.
    #[must_use]
    pub fn new(secret: Zeroizing<[u8; 32]>, epoch: u64, not_after: UnixMillis, suites: Vec<Suite>) -> Self {
        let public = PublicKey::from(&StaticSecret::from(*secret)).to_bytes();
        Self { secret, record: MeshKey { public, epoch, not_after, suites } }
    }

    /// What is signed and spread.
    #[must_use]
    pub const fn record(&self) -> &MeshKey {
        &self.record
    }
}

/// Whether there is so much to do that strangers have to show that they receive what is sent to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// Handshakes are answered.
    Calm,
    /// Only with a cookie.
    High,
}

/// An initiation that may cost something: MAC1 was right, and MAC2 if it had to be. Nothing else is known of it.
#[derive(Debug)]
pub struct Admitted {
    pub(super) own: Arc<OwnKey>,
    pub(super) message: Initiation,
    pub(super) introduction: Introduction,
}

impl Admitted {
    /// Whom it claims to be from: by this hash and epoch the right [`super::Sessions`] is found.
    #[must_use]
    pub const fn introduction(&self) -> &Introduction {
        &self.introduction
    }
}

/// What becomes of an initiation.
#[derive(Debug)]
pub enum Verdict {
    /// To be given to the sessions of the peer it introduces.
    Admitted(Box<Admitted>),
    /// To be sent back to its source instead.
    Cookie([u8; COOKIE_REPLY]),
    /// Nothing.
    Dropped(Dropped),
}

/// The gate of one network.
#[derive(Debug)]
pub struct Gate {
    network: NetworkId,
    /// Newest first, at most [`OWN_KEYS_MAX`].
    own: Vec<Arc<OwnKey>>,
    /// For the keys above.
    sieve: Arc<Sieve>,
    cookies: Option<CookieSecrets>,
    drops: Drops,
}

#[derive(Debug)]
struct CookieSecrets {
    newest: Secret,
    before: Option<Secret>,
    made_ms: u64,
}

impl Gate {
    /// A gate that answers for `own`.
    #[must_use]
    pub fn new(network: NetworkId, own: Arc<OwnKey>) -> Self {
        let sieve = Arc::new(Sieve::new(&network, [&own.record.public]));
        Self { network, own: vec![own], sieve, cookies: None, drops: Drops::default() }
    }

    /// Answers for a newer key too, and no longer for the one before the last.
    pub fn set_own_key(&mut self, own: Arc<OwnKey>) {
        self.own.insert(0, own);
        self.own.truncate(OWN_KEYS_MAX);
        self.sieve = Arc::new(Sieve::new(&self.network, self.own.iter().map(|own| &own.record.public)));
    }

    /// What those check who receive messages for this gate; another one after [`Self::set_own_key`].
    #[must_use]
    pub const fn sieve(&self) -> &Arc<Sieve> {
        &self.sieve
    }

    /// What was refused here, by reason.
    #[must_use]
    pub const fn drops(&self) -> &Drops {
        &self.drops
    }

    /// Judges the initiation in `bytes` that came from `source`: address and port, or who brought it; [`SOURCE_MAX`]
    /// bytes at most. It costs hashes of 200 bytes, and under load one AEAD of 16.
    pub fn examine(
        &mut self,
        bytes: &[u8],
        source: &[u8],
        load: Load,
        uptime_ms: u64,
        random: &mut dyn FnMut(&mut [u8]),
    ) -> Verdict {
        let verdict = match self.try_examine(bytes, source, load, uptime_ms, random) {
            Ok(verdict) => verdict,
            Err(reason) => Verdict::Dropped(reason),
        };
        match &verdict {
            Verdict::Admitted(_) => {}
            Verdict::Cookie(_) => self.drops.add(Dropped::NoCookie),
            Verdict::Dropped(reason) => self.drops.add(*reason),
        }
        verdict
    }

    fn try_examine(
        &mut self,
        bytes: &[u8],
        source: &[u8],
        load: Load,
        uptime_ms: u64,
        random: &mut dyn FnMut(&mut [u8]),
    ) -> Result<Verdict, Dropped> {
        let message = Initiation::parse(bytes).map_err(|error| match error {
            MessageError::Version(_) => Dropped::Version,
            _ => Dropped::Malformed,
        })?;
        let before = bytes.get(..INITIATION_BEFORE_MAC1).ok_or(Dropped::Malformed)?;
        let network = self.network;
        let meant = |own: &&Arc<OwnKey>| is(&mac1(&network, &own.record.public, before), &message.mac1);
        let own = Arc::clone(self.own.iter().find(meant).ok_or(Dropped::BadMac1)?);
        if load == Load::High && !self.knows_cookie(bytes, source, &message.mac2, uptime_ms)? {
            let reply = self.reply(&own, message.sender, &message.mac1, source, uptime_ms, random);
            return Ok(Verdict::Cookie(reply.to_bytes()));
        }
        let (masked, ephemeral) = (&message.introduction, message.ephemeral());
        let introduction = Introduction::unmask(masked, &self.network, &own.record.public, &ephemeral);
        Ok(Verdict::Admitted(Box::new(Admitted { own, message, introduction })))
    }

    fn knows_cookie(&self, bytes: &[u8], source: &[u8], shown: &HandshakeMac, uptime_ms: u64) -> Result<bool, Dropped> {
        let before = bytes.get(..INITIATION_BEFORE_MAC2).ok_or(Dropped::Malformed)?;
        if source.len() > SOURCE_MAX {
            return Err(Dropped::Malformed);
        }
        let Some(secrets) = &self.cookies else { return Ok(false) };
        let age = uptime_ms.saturating_sub(secrets.made_ms);
        let newest = (age < COOKIE_SECRET_MS.saturating_mul(2)).then_some(&secrets.newest);
        let earlier = secrets.before.as_ref().filter(|_| age < COOKIE_SECRET_MS);
        let fits = |secret: &Secret| is(&mac2(&cookie(&secret.0, source), before), shown);
        Ok(newest.into_iter().chain(earlier).any(fits))
    }

    fn reply(
        &mut self,
        own: &OwnKey,
        receiver: SessionIndex,
        mac1: &HandshakeMac,
        source: &[u8],
        uptime_ms: u64,
        random: &mut dyn FnMut(&mut [u8]),
    ) -> CookieReply {
        let fresh = self.cookies.take().filter(|secrets| {
            // One that was not used for very long is as good as none.
            uptime_ms.saturating_sub(secrets.made_ms) < COOKIE_SECRET_MS.saturating_mul(2)
        });
        let secrets = match fresh {
            Some(secrets) if uptime_ms.saturating_sub(secrets.made_ms) < COOKIE_SECRET_MS => secrets,
            older => {
                let mut newest = Zeroizing::new([0; 32]);
                random(&mut newest[..]);
                CookieSecrets {
                    newest: Secret(newest),
                    before: older.map(|secrets| secrets.newest),
                    made_ms: uptime_ms,
                }
            }
        };
        let mut salt = [0; 32];
        random(&mut salt);
        let mut sealed = [0; HANDSHAKE_MAC + TAG];
        let (text, tag) = sealed.split_at_mut(HANDSHAKE_MAC);
        text.copy_from_slice(&cookie(&secrets.newest.0, source));
        let key = Aead::new(Suite::ChaCha20Poly1305, &cookie_key(&self.network, &own.record.public, &salt));
        tag.copy_from_slice(&key.seal([0; 12], mac1, text));
        self.cookies = Some(secrets);
        CookieReply { receiver, salt, sealed }
    }
}

/// The cookie in a reply to the initiation with this MAC1.
pub(super) fn open_cookie(
    reply: &CookieReply,
    network: &NetworkId,
    responder: &[u8; 32],
    mac1: &HandshakeMac,
) -> Option<HandshakeMac> {
    let mut sealed = reply.sealed;
    let (text, tag) = sealed.split_last_chunk_mut::<TAG>()?;
    let key = Aead::new(Suite::ChaCha20Poly1305, &cookie_key(network, responder, &reply.salt));
    key.open([0; 12], mac1, text, tag).ok()?;
    (&*text).try_into().ok()
}

/// Whether two MACs are the same, in time that does not say where they differ.
pub(super) fn is(one: &HandshakeMac, other: &HandshakeMac) -> bool {
    one.ct_eq(other).into()
}
