//! What the receiver of a tunnel lane tells its sender: how many bytes came. It is written on the lane itself, where the
//! length of a frame would be 0, and counts neither itself nor its like.
//!
//! ```text
//! byte 0-1     0, where the length of a frame stands
//! byte 2-9     received u64 BE: bytes of frames with their lengths since the lane began, of cut ones what came
//! ```

/// Bytes of a length before a frame.
const LENGTH_LEN: usize = 2;

/// So many bytes of frames, with their lengths, came since the lane began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Credit(pub u64);

impl Credit {
    /// Bytes of a credit on the lane.
    pub const LEN: usize = 10;

    /// The only bytes of this credit.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        out[LENGTH_LEN..].copy_from_slice(&self.0.to_be_bytes());
        out
    }
}

/// Follows the bytes of a lane as they come, in whatever pieces: how many are of frames, and the newest credit.
#[derive(Clone, Copy, Debug, Default)]
pub struct Follower {
    /// A length, or a whole credit.
    head: [u8; Credit::LEN],
    have: usize,
    /// Bytes of the present frame still to come.
    body: usize,
}

/// What some bytes of a lane were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Followed {
    /// Of frames and their lengths; a length counts when all of it came.
    pub bytes: u64,
    /// The newest credit that ended here.
    pub credit: Option<Credit>,
}

impl Follower {
    /// The next bytes of the lane.
    pub fn pass(&mut self, mut bytes: &[u8]) -> Followed {
        let mut followed = Followed::default();
        while !bytes.is_empty() {
            let wanted = match (self.body, self.have) {
                (0, have @ 0..LENGTH_LEN) => LENGTH_LEN - have,
                (0, have) => Credit::LEN - have,
                (body, _) => body,
            };
            let (now, rest) = bytes.split_at(wanted.min(bytes.len()));
            if self.body > 0 {
                self.body -= now.len();
                followed.bytes = followed.bytes.saturating_add(now.len() as u64);
            } else {
                self.head[self.have..][..now.len()].copy_from_slice(now);
                self.have += now.len();
                self.finish_head(&mut followed);
            }
            bytes = rest;
        }
        followed
    }

    fn finish_head(&mut self, followed: &mut Followed) {
        let [high, low, number @ ..] = self.head;
        let length = u16::from_be_bytes([high, low]);
        match (self.have, length) {
            (Credit::LEN, _) => followed.credit = Some(Credit(u64::from_be_bytes(number))),
            (LENGTH_LEN, 1..) => {
                self.body = usize::from(length);
                followed.bytes = followed.bytes.saturating_add(LENGTH_LEN as u64);
            }
            _ => return,
        }
        self.have = 0;
    }
}
