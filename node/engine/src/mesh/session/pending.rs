//! Handshakes of [`Sessions`]: beginning, repeating and answering them. It judges no frame and keeps no session.

use std::collections::BTreeMap;
use std::sync::Arc;

use shoal_protocol::Suite;
use shoal_protocol::mesh::key::data_suite;
use shoal_protocol::mesh::session::SessionIndex;
use shoal_protocol::mesh::session::content::Control;
use shoal_protocol::mesh::session::handshake::{
    CookieReply, HANDSHAKE_MAC, HandshakeMac, INITIATION_BEFORE_MAC1, INITIATION_BEFORE_MAC2, Initiation, Introduction,
    NOISE_FIRST, Offer, Opening, RESPONSE_BEFORE_MAC1, Response, Side, Stamp, mac1, mac2, prologue,
};
use zeroize::Zeroizing;

use super::drops::Dropped;
use super::effect::{Context, Down, Effect, Installed};
use super::gate::{Admitted, OwnKey, is, open_cookie};
use super::keys::frame_keys;
use super::live::Live;
use super::noise::{Initiator, Inputs, Responder, Secrets};
use super::rx::RxHalf;
use super::sessions::{Sessions, Slot};
use super::tx::TxHalf;
use crate::path::Carrier;

/// First wait before an initiation is repeated, milliseconds, before jitter; doubled each time.
pub const RETRY_FIRST_MS: u64 = 1_000;
/// Longest such wait, milliseconds, before jitter.
pub const RETRY_MAX_MS: u64 = 5_000;
/// Jitter added to each wait, milliseconds, so that two peers do not repeat in step.
pub const RETRY_JITTER_MS: u64 = 333;
/// A handshake is given up after so long, milliseconds, until packets wait again.
pub const ATTEMPT_MS: u64 = 90_000;
/// For so many tenths of the wait after its own initiation the peer with the smaller hash refuses one of the other. Not for
/// all of it: an initiation that got lost does not keep the other's out. It grows with the wait, so that after a few tries
/// it covers the way to any peer that can be reached at all.
pub const TIE_TENTHS: u64 = 6;
/// Initiations of one peer that are taken are at least so far apart, milliseconds.
pub const INITIATION_GAP_MS: u64 = 50;
/// Responses to one initiation that are tried. Only who knows index and mesh key of the initiator can send one at all;
/// beyond this the next initiation has to be waited for.
pub const RESPONSES_MAX: u8 = 4;
/// A cookie is used for so long, milliseconds.
pub const COOKIE_MS: u64 = 120_000;

/// An own initiation that waits for its response.
pub(super) struct Pending {
    index: SessionIndex,
    state: Initiator,
    own: Arc<OwnKey>,
    /// With MAC1, before any cookie.
    message: Initiation,
    suite: Suite,
    began_ms: u64,
    tie_until_ms: u64,
    retry_ms: u64,
    responses: u8,
    /// One a carrier that is up, with the moment it came.
    cookies: BTreeMap<Carrier, (HandshakeMac, u64)>,
    /// A cookie makes the next initiation come sooner, once.
    hastened: bool,
}

impl core::fmt::Debug for Pending {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Pending({})", self.index)
    }
}

/// What lives on from one try to the next.
#[derive(Default)]
struct Earlier {
    began_ms: Option<u64>,
    cookies: BTreeMap<Carrier, (HandshakeMac, u64)>,
    hastened: bool,
}

impl Sessions {
    /// An initiation that passed the gate and introduces this peer.
    pub fn handle_initiation(&mut self, admitted: &Admitted, from: Carrier, cx: &mut Context<'_>) {
        if !self.has_room() {
            return;
        }
        if let Err(reason) = self.answer(admitted, from, cx) {
            self.drops.add(reason);
        }
    }

    /// A response, still in its bytes: to be given to the sessions that own the receiver index in it.
    pub fn handle_response(&mut self, bytes: &[u8], from: Carrier, cx: &mut Context<'_>) {
        if !self.has_room() {
            return;
        }
        if let Err(reason) = self.finish(bytes, from, cx) {
            self.drops.add(reason);
        }
    }

    /// A cookie reply, still in its bytes: to be given to the sessions that own the receiver index in it.
    pub fn handle_cookie(&mut self, bytes: &[u8], from: Carrier, cx: &mut Context<'_>) {
        if let Err(reason) = self.keep_cookie(bytes, from, cx.now.uptime_ms) {
            self.drops.add(reason);
        }
    }

    /// Begins a handshake if one is needed and none is under way.
    pub(super) fn begin_if_needed(&mut self, cx: &mut Context<'_>) {
        let now_ms = cx.now.uptime_ms;
        let elder = !self.is_younger();
        // One that was made by the peer a moment ago only waits for its first frame.
        let wait_ms = wait_ms(self.tries);
        let coming = self.next.as_ref().is_some_and(|live| now_ms.saturating_sub(live.made_ms) < wait_ms);
        let due = match &self.current {
            Some(live) => live.is_due(elder, now_ms),
            None => self.wanted,
        };
        if due && !coming && self.pending.is_none() && now_ms >= self.rest_until_ms && !self.carriers.is_empty() {
            self.initiate(Earlier::default(), cx);
        }
    }

    pub(super) fn retry_if_due(&mut self, cx: &mut Context<'_>) {
        let now_ms = cx.now.uptime_ms;
        let Some(pending) = self.pending.take_if(|pending| now_ms >= pending.retry_ms) else { return };
        cx.indices.release(pending.index);
        if now_ms.saturating_sub(pending.began_ms) >= ATTEMPT_MS {
            self.wanted = false;
            self.tries = 0;
            self.rest_until_ms = now_ms.saturating_add(RETRY_MAX_MS);
            if self.current.is_none() {
                self.push(Effect::Down(Down::Unreachable));
            }
            return;
        }
        let Pending { began_ms, mut cookies, hastened, .. } = *pending;
        cookies.retain(|_, (_, came_ms)| now_ms.saturating_sub(*came_ms) < COOKIE_MS);
        self.initiate(Earlier { began_ms: Some(began_ms), cookies, hastened }, cx);
    }

    pub(super) fn drop_pending(&mut self, cx: &mut Context<'_>) {
        if let Some(pending) = self.pending.take() {
            cx.indices.release(pending.index);
        }
    }

    fn initiate(&mut self, earlier: Earlier, cx: &mut Context<'_>) {
        match self.try_initiate(earlier, cx) {
            Ok(pending) => {
                self.send_initiation(&pending);
                self.pending = Some(Box::new(pending));
            }
            Err(reason) => {
                self.drops.add(reason);
                self.rest_until_ms = cx.now.uptime_ms.saturating_add(RETRY_MAX_MS);
            }
        }
    }

    fn try_initiate(&mut self, earlier: Earlier, cx: &mut Context<'_>) -> Result<Pending, Dropped> {
        let (now, own) = (cx.now, Arc::clone(&self.own));
        if !own.record().is_usable(now.wall) || !self.peer_key.is_usable(now.wall) {
            return Err(Dropped::KeyExpired);
        }
        let mut ephemeral = Zeroizing::new([0; 32]);
        (cx.random)(&mut ephemeral[..]);
        let mut jitter = [0; 2];
        (cx.random)(&mut jitter);
        let stamp = Stamp(now.wall.0.saturating_mul(256).max(self.last_stamp.0.saturating_add(1)));
        let opening = Opening { stamp, offer: self.pair.offer };
        let prologue = prologue(&self.pair.network, self.own_side(&own), self.peer_side());
        let begun = Initiator::begin(self.inputs(&own, &prologue, ephemeral), &opening.to_bytes());
        let (state, noise) = begun.map_err(|_| Dropped::Undecryptable)?;
        let index = cx.indices.claim(self.pair.peer.hash, cx.random).ok_or(Dropped::Busy)?;
        self.last_stamp = stamp;
        let message = self.write_initiation(index, own.record().epoch, noise);
        let wait = wait_ms(self.tries).saturating_add(u64::from(u16::from_le_bytes(jitter)) % RETRY_JITTER_MS);
        let tie_ms = wait_ms(self.tries).saturating_mul(TIE_TENTHS) / 10;
        self.tries = self.tries.saturating_add(1);
        Ok(Pending {
            index,
            state,
            suite: data_suite(&own.record().suites, &self.peer_key.suites),
            own,
            message,
            began_ms: earlier.began_ms.unwrap_or(now.uptime_ms),
            tie_until_ms: now.uptime_ms.saturating_add(tie_ms),
            retry_ms: now.uptime_ms.saturating_add(wait),
            responses: 0,
            cookies: earlier.cookies,
            hastened: earlier.hastened,
        })
    }

    fn write_initiation(&self, sender: SessionIndex, epoch: u64, noise: [u8; NOISE_FIRST]) -> Initiation {
        let (network, responder) = (&self.pair.network, &self.peer_key.public);
        let none = [0; HANDSHAKE_MAC];
        let mut message = Initiation { sender, introduction: [0; 18], noise, mac1: none, mac2: none };
        let introduction = Introduction { peer: self.pair.own.hash, epoch };
        message.introduction = introduction.mask(network, responder, &message.ephemeral());
        let bytes = message.to_bytes();
        message.mac1 = mac1(network, responder, bytes.split_at(INITIATION_BEFORE_MAC1).0);
        message
    }

    /// On lanes alone the first time if there are any, which is where an answer is surest; then on everything.
    fn send_initiation(&mut self, pending: &Pending) {
        let lanes = self.carriers.contains(&Carrier::Lanes) && self.tries <= 1;
        let carriers: Vec<Carrier> =
            self.carriers.iter().copied().filter(|carrier| !lanes || *carrier == Carrier::Lanes).collect();
        for on in carriers {
            let mut message = pending.message.clone();
            if let Some((cookie, _)) = pending.cookies.get(&on) {
                message.mac2 = mac2(cookie, message.to_bytes().split_at(INITIATION_BEFORE_MAC2).0);
            }
            self.push(Effect::Send { on, bytes: message.to_bytes().to_vec() });
        }
    }

    fn answer(&mut self, admitted: &Admitted, from: Carrier, cx: &mut Context<'_>) -> Result<(), Dropped> {
        let (now_ms, introduction) = (cx.now.uptime_ms, admitted.introduction);
        if introduction.peer != self.pair.peer.hash {
            return Err(Dropped::WrongPeer);
        }
        if introduction.epoch != self.peer_key.epoch {
            if introduction.epoch > self.peer_key.epoch {
                self.push(Effect::WantKey { epoch: introduction.epoch });
            }
            return Err(Dropped::WrongEpoch);
        }
        if !admitted.own.record().is_usable(cx.now.wall) || !self.peer_key.is_usable(cx.now.wall) {
            return Err(Dropped::KeyExpired);
        }
        if self.accepted_ms.is_some_and(|last| now_ms.saturating_sub(last) < INITIATION_GAP_MS) {
            return Err(Dropped::TooSoon);
        }
        let own_is_under_way = |pending: &Pending| now_ms < pending.tie_until_ms;
        if self.is_younger() && self.pending.as_deref().is_some_and(own_is_under_way) {
            return Err(Dropped::LostTie);
        }
        let mut ephemeral = Zeroizing::new([0; 32]);
        (cx.random)(&mut ephemeral[..]);
        let prologue = prologue(&self.pair.network, self.peer_side(), self.own_side(&admitted.own));
        let read = Responder::read(self.inputs(&admitted.own, &prologue, ephemeral), &admitted.message.noise);
        let (responder, opening) = read.map_err(|_| Dropped::Undecryptable)?;
        let opening = Opening::from_bytes(&opening).map_err(|_| Dropped::Malformed)?;
        if self.heard.is_some_and(|(epoch, stamp)| epoch == introduction.epoch && opening.stamp <= stamp) {
            return Err(Dropped::StaleStamp);
        }
        let answered = responder.answer(&self.pair.offer.to_bytes());
        let (secrets, noise) = answered.map_err(|_| Dropped::Undecryptable)?;
        let index = cx.indices.claim(self.pair.peer.hash, cx.random).ok_or(Dropped::Busy)?;
        self.heard = Some((introduction.epoch, opening.stamp));
        self.accepted_ms = Some(now_ms);
        self.drop_pending(cx);
        self.erase_if(|_| true, Slot::Next, cx);
        let mut response =
            Response { sender: index, receiver: admitted.message.sender, noise, mac1: [0; HANDSHAKE_MAC] };
        let bytes = response.to_bytes();
        response.mac1 = mac1(&self.pair.network, &self.peer_key.public, bytes.split_at(RESPONSE_BEFORE_MAC1).0);
        let suite = data_suite(&admitted.own.record().suites, &self.peer_key.suites);
        self.install(Halves { index, remote: admitted.message.sender, secrets, suite, offer: opening.offer }, false);
        self.next = Some(Live::new(index, now_ms, false));
        self.push(Effect::Send { on: from, bytes: response.to_bytes().to_vec() });
        Ok(())
    }

    fn finish(&mut self, bytes: &[u8], from: Carrier, cx: &mut Context<'_>) -> Result<(), Dropped> {
        let response = Response::parse(bytes).map_err(|_| Dropped::Malformed)?;
        let before = bytes.get(..RESPONSE_BEFORE_MAC1).ok_or(Dropped::Malformed)?;
        let pending = self.pending.as_mut().filter(|pending| pending.index == response.receiver);
        let pending = pending.ok_or(Dropped::NoHandshake)?;
        if !is(&mac1(&self.pair.network, &pending.own.record().public, before), &response.mac1) {
            return Err(Dropped::BadMac1);
        }
        if pending.responses >= RESPONSES_MAX {
            return Err(Dropped::TooManyAnswers);
        }
        pending.responses = pending.responses.saturating_add(1);
        let (secrets, offer) = pending.state.finish(&response.noise).map_err(|_| Dropped::Undecryptable)?;
        let (index, suite) = (pending.index, pending.suite);
        self.pending = None;
        let Ok(offer) = Offer::from_bytes(offer) else {
            cx.indices.release(index);
            return Err(Dropped::Malformed);
        };
        // What the peer began before and did not use is older than this: one session stays.
        self.erase_if(|_| true, Slot::Next, cx);
        self.install(Halves { index, remote: response.sender, secrets, suite, offer }, true);
        self.promote(Live::new(index, cx.now.uptime_ms, true), cx);
        if self.roaming.is_validated(from) {
            self.last_from = Some(from);
        }
        // Only a frame tells the responder that it may use the session.
        self.push(Effect::Control { index, on: from, control: Control::Keepalive });
        Ok(())
    }

    fn install(&mut self, halves: Halves, initiator: bool) {
        let Halves { index, remote, secrets, suite, offer } = halves;
        let (seal, open) = frame_keys(&self.pair.network, suite, secrets, initiator);
        let (tx, rx) = (TxHalf::new(seal, remote), RxHalf::new(open, index));
        self.push(Effect::Install(Box::new(Installed { index, tx, rx, offer, suite })));
    }

    fn keep_cookie(&mut self, bytes: &[u8], from: Carrier, now_ms: u64) -> Result<(), Dropped> {
        let reply = CookieReply::parse(bytes).map_err(|_| Dropped::Malformed)?;
        if !self.carriers.contains(&from) {
            return Err(Dropped::NoHandshake);
        }
        let pending = self.pending.as_mut().filter(|pending| pending.index == reply.receiver);
        let pending = pending.ok_or(Dropped::NoHandshake)?;
        let opened = open_cookie(&reply, &self.pair.network, &self.peer_key.public, &pending.message.mac1);
        pending.cookies.insert(from, (opened.ok_or(Dropped::Undecryptable)?, now_ms));
        if !pending.hastened {
            pending.hastened = true;
            pending.retry_ms = now_ms;
        }
        Ok(())
    }

    fn inputs<'a>(&'a self, own: &'a OwnKey, prologue: &'a [u8], ephemeral: Zeroizing<[u8; 32]>) -> Inputs<'a> {
        Inputs {
            secret: &own.secret,
            peer: &self.peer_key.public,
            prologue,
            psk: &self.psk.0,
            ephemeral,
            operations: &self.operations,
        }
    }

    fn own_side<'a>(&'a self, own: &'a OwnKey) -> Side<'a> {
        Side { node: &self.pair.own.node, epoch: own.record().epoch, suites: &own.record().suites }
    }

    fn peer_side(&self) -> Side<'_> {
        Side { node: &self.pair.peer.node, epoch: self.peer_key.epoch, suites: &self.peer_key.suites }
    }
}

/// How long an initiation is waited for that was begun after so many others in vain, milliseconds, before jitter.
fn wait_ms(tries: u32) -> u64 {
    RETRY_FIRST_MS.saturating_mul(1 << tries.min(8)).min(RETRY_MAX_MS)
}

/// What a finished handshake has to give to its halves.
struct Halves {
    index: SessionIndex,
    remote: SessionIndex,
    secrets: Secrets,
    suite: Suite,
    offer: Offer,
}
