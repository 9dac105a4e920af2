//! What is inside a data frame: a packet, a frame on its way to somebody else, or a word between the two ends. It never
//! looks into packets.
//!
//! ```text
//! content   = kind u8 || body
//! challenge, answer = token 16        fence = number u32 LE || from u8 || to u8
//! probe     = number u32 LE || zeros  echo  = number u32 LE
//! close     = reason u8               keepalive = nothing
//! ```

use super::frame::{FRAME_MAX, FRAME_OVERHEAD, PathId};
use super::{MessageError, take};

/// Bytes of a challenge's token: nobody guesses 128 bits in the seconds it is good for.
pub const TOKEN: usize = 16;
/// Most zeros behind a probe, so that its frame stays within [`FRAME_MAX`].
pub const PROBE_PADDING_MAX: u16 = 65_501;
/// Bytes a probe's frame has without padding.
pub const PROBE_FRAME: usize = FRAME_OVERHEAD + 4;
const _: () = assert!(PROBE_FRAME + PROBE_PADDING_MAX as usize == FRAME_MAX);

/// First byte of what was sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentKind {
    /// A packet for this end (§18).
    Packet,
    /// A relay header and a frame of another session (§18).
    Relayed,
    /// One of [`Control`].
    Control(ControlKind),
}

/// Which word between two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlKind {
    /// See [`Control::Challenge`].
    Challenge,
    /// See [`Control::Answer`].
    Answer,
    /// See [`Control::Fence`].
    Fence,
    /// See [`Control::Probe`].
    Probe,
    /// See [`Control::Echo`].
    Echo,
    /// See [`Control::Keepalive`].
    Keepalive,
    /// See [`Control::Close`].
    Close,
}

impl ContentKind {
    /// Every kind there is.
    pub const ALL: [Self; 9] = [
        Self::Packet,
        Self::Relayed,
        Self::Control(ControlKind::Challenge),
        Self::Control(ControlKind::Answer),
        Self::Control(ControlKind::Fence),
        Self::Control(ControlKind::Probe),
        Self::Control(ControlKind::Echo),
        Self::Control(ControlKind::Keepalive),
        Self::Control(ControlKind::Close),
    ];

    /// The byte.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Packet => 1,
            Self::Relayed => 2,
            Self::Control(ControlKind::Challenge) => 16,
            Self::Control(ControlKind::Answer) => 17,
            Self::Control(ControlKind::Fence) => 18,
            Self::Control(ControlKind::Probe) => 19,
            Self::Control(ControlKind::Echo) => 20,
            Self::Control(ControlKind::Keepalive) => 21,
            Self::Control(ControlKind::Close) => 22,
        }
    }

    /// The kind of a byte, if it is one.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Packet,
            2 => Self::Relayed,
            16 => Self::Control(ControlKind::Challenge),
            17 => Self::Control(ControlKind::Answer),
            18 => Self::Control(ControlKind::Fence),
            19 => Self::Control(ControlKind::Probe),
            20 => Self::Control(ControlKind::Echo),
            21 => Self::Control(ControlKind::Keepalive),
            22 => Self::Control(ControlKind::Close),
            _ => return None,
        })
    }
}

/// "What comes on `to` was sent after what came on `from`." Sent as the last frame on `from` and as the first on `to`:
/// the receiver holds what comes on `to` until it has this on `from`, or for a short time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fence {
    /// Grows by one with each change of the sender's carrier.
    pub number: u32,
    /// Path id used until now.
    pub from: PathId,
    /// Path id used from now on, another one.
    pub to: PathId,
}

/// Why an end gives up a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// Nothing was sent for long.
    Idle,
    /// The program stops.
    Stopping,
    /// The other one is no member any more.
    Refused,
}

impl CloseReason {
    /// The byte.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Idle => 1,
            Self::Stopping => 2,
            Self::Refused => 3,
        }
    }

    const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Idle),
            2 => Some(Self::Stopping),
            3 => Some(Self::Refused),
            _ => None,
        }
    }
}

/// A word between the two ends of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// "Are you at this address?" Sent to the address in question alone.
    Challenge([u8; TOKEN]),
    /// The token of the challenge, sent back to where it came from.
    Answer([u8; TOKEN]),
    /// A change of carrier.
    Fence(Fence),
    /// "Does this way work, for frames of this length?"
    Probe {
        /// The sender's number for it.
        number: u32,
        /// Zeros behind it.
        padding: u16,
    },
    /// The number of a probe, sent back the way it came.
    Echo {
        /// The number.
        number: u32,
    },
    /// Nothing but a proof of life.
    Keepalive,
    /// The session is over.
    Close(CloseReason),
}

impl Control {
    /// Its kind.
    #[must_use]
    pub const fn kind(&self) -> ControlKind {
        match self {
            Self::Challenge(_) => ControlKind::Challenge,
            Self::Answer(_) => ControlKind::Answer,
            Self::Fence(_) => ControlKind::Fence,
            Self::Probe { .. } => ControlKind::Probe,
            Self::Echo { .. } => ControlKind::Echo,
            Self::Keepalive => ControlKind::Keepalive,
            Self::Close(_) => ControlKind::Close,
        }
    }

    /// Bytes of its body.
    #[must_use]
    pub const fn body_length(&self) -> usize {
        match self {
            Self::Challenge(_) | Self::Answer(_) => TOKEN,
            Self::Fence(_) => 6,
            Self::Probe { padding, .. } => 4 + *padding as usize,
            Self::Echo { .. } => 4,
            Self::Keepalive => 0,
            Self::Close(_) => 1,
        }
    }

    /// Writes its body to the start of `out` and says how long it is; nothing is written if `out` is too short or the
    /// padding too long.
    pub fn write_body(&self, out: &mut [u8]) -> Option<usize> {
        let length = self.body_length();
        if matches!(self, Self::Probe { padding, .. } if *padding > PROBE_PADDING_MAX) {
            return None;
        }
        let body = out.get_mut(..length)?;
        match self {
            Self::Challenge(token) | Self::Answer(token) => body.copy_from_slice(token),
            Self::Fence(Fence { number, from, to }) => {
                let [a, b, c, d] = number.to_le_bytes();
                body.copy_from_slice(&[a, b, c, d, from.number(), to.number()]);
            }
            Self::Probe { number, .. } | Self::Echo { number } => {
                let (head, zeros) = body.split_first_chunk_mut::<4>()?;
                *head = number.to_le_bytes();
                zeros.fill(0);
            }
            Self::Keepalive => {}
            Self::Close(reason) => body.fill(reason.number()),
        }
        Some(length)
    }

    /// The word of this kind in `body`.
    ///
    /// # Errors
    /// [`MessageError`] for another length, path ids nobody has or that are one, padding that is not zero, and a reason
    /// nobody knows.
    pub fn parse(kind: ControlKind, body: &[u8]) -> Result<Self, MessageError> {
        let mut rest = body;
        let control = match kind {
            ControlKind::Challenge => Self::Challenge(take(&mut rest)?),
            ControlKind::Answer => Self::Answer(take(&mut rest)?),
            ControlKind::Fence => {
                let number = u32::from_le_bytes(take(&mut rest)?);
                let [from, to] = take(&mut rest)?;
                let path = |number| PathId::new(number).ok_or(MessageError::Field("path id"));
                let (from, to) = (path(from)?, path(to)?);
                if from == to {
                    return Err(MessageError::Field("path ids of a fence"));
                }
                Self::Fence(Fence { number, from, to })
            }
            ControlKind::Probe => {
                let number = u32::from_le_bytes(take(&mut rest)?);
                let padding = u16::try_from(rest.len()).map_err(|_| MessageError::Length)?;
                if padding > PROBE_PADDING_MAX {
                    return Err(MessageError::Length);
                }
                if rest.iter().any(|byte| *byte != 0) {
                    return Err(MessageError::Field("padding"));
                }
                rest = &[];
                Self::Probe { number, padding }
            }
            ControlKind::Echo => Self::Echo { number: u32::from_le_bytes(take(&mut rest)?) },
            ControlKind::Keepalive => Self::Keepalive,
            ControlKind::Close => {
                let [reason] = take(&mut rest)?;
                Self::Close(CloseReason::from_number(reason).ok_or(MessageError::Field("reason"))?)
            }
        };
        if rest.is_empty() { Ok(control) } else { Err(MessageError::Length) }
    }
}
