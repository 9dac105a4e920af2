//! The receiver's side of a change of carriers: frames that overtook those sent before them are held for a moment. It keeps
//! no frame itself, and never holds one longer than [`HOLD_MS`].

use shoal_protocol::mesh::session::content::Fence;
use shoal_protocol::mesh::session::frame::{PathId, WINDOWS};

/// Frames are held so long at most, milliseconds: what a flow notices less than frames out of order.
pub const HOLD_MS: u64 = 30;
/// Frames held at most: 30 ms of 64 KiB super-packets at 10 Gb/s are 600, of datagrams at 1 Gb/s 2,600.
pub const HELD_MAX: u32 = 2_600;

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// It goes on.
    Pass,
    /// It is kept, behind those of its path id that already are.
    Hold,
    /// All that are kept of its path id go on, then it does.
    Release,
}

#[derive(Clone, Copy, Debug)]
struct Wait {
    number: u32,
    until_ms: u64,
    held: u32,
}

/// The fences of one peer, whose numbers run on over its sessions.
#[derive(Debug, Default)]
pub struct FenceGate {
    /// Which path ids wait for the end of another.
    waits: [Option<Wait>; WINDOWS],
    /// The latest fence that came on the way it ends.
    ended: Option<u32>,
}

impl FenceGate {
    /// A fence came in a frame of path id `on`. Says which path id is held no more: what is kept of it goes on.
    pub fn handle_fence(&mut self, on: PathId, fence: Fence, uptime_ms: u64) -> Option<PathId> {
        let has_ended = self.ended.is_some_and(|ended| !is_newer(fence.number, ended));
        let wait = self.waits.get_mut(fence.to.slot())?;
        if on == fence.from {
            if !has_ended {
                self.ended = Some(fence.number);
            }
            return wait.take_if(|wait| !is_newer(wait.number, fence.number)).map(|_| fence.to);
        }
        // Any other way says nothing about what came before.
        if on == fence.to && !has_ended {
            let is_old = wait.is_some_and(|wait| !is_newer(fence.number, wait.number));
            if !is_old {
                // Frames that wait already wait no longer for a second fence.
                let (until_ms, held) =
                    wait.map_or((uptime_ms.saturating_add(HOLD_MS), 0), |wait| (wait.until_ms, wait.held));
                *wait = Some(Wait { number: fence.number, until_ms, held });
            }
        }
        None
    }

    /// A packet came in a frame of this path id.
    pub fn judge(&mut self, path: PathId, uptime_ms: u64) -> Judgement {
        let Some(slot) = self.waits.get_mut(path.slot()) else { return Judgement::Pass };
        let Some(wait) = slot else { return Judgement::Pass };
        if uptime_ms >= wait.until_ms || wait.held >= HELD_MAX {
            *slot = None;
            return Judgement::Release;
        }
        wait.held = wait.held.saturating_add(1);
        Judgement::Hold
    }

    /// A path id that has been held long enough, if there is one: what is kept of it goes on. Ask until there is none.
    pub fn due(&mut self, uptime_ms: u64) -> Option<PathId> {
        let is_due = |wait: &mut Wait| uptime_ms >= wait.until_ms;
        let slot = self.waits.iter_mut().position(|wait| wait.take_if(is_due).is_some())?;
        let number = if slot.saturating_add(1) == WINDOWS { PathId::DUAL.number() } else { u8::try_from(slot).ok()? };
        PathId::new(number)
    }
}

/// Whether `one` was numbered after `other`, across the end of 32 bits (RFC 1982 §3.2).
const fn is_newer(one: u32, other: u32) -> bool {
    let ahead = one.wrapping_sub(other);
    ahead != 0 && ahead < 1 << 31
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fence(number: u32) -> Fence {
        Fence { number, from: PathId::LANES, to: path(2) }
    }

    fn path(number: u8) -> PathId {
        PathId::new(number).unwrap()
    }

    #[test]
    fn the_new_way_waits_for_the_end_of_the_old_one() {
        let mut gate = FenceGate::default();
        assert_eq!(gate.judge(path(2), 0), Judgement::Pass);
        assert_eq!(gate.handle_fence(path(2), fence(0), 0), None);
        assert_eq!(gate.judge(path(2), 1), Judgement::Hold);
        assert_eq!(gate.judge(PathId::LANES, 1), Judgement::Pass);
        assert_eq!(gate.handle_fence(PathId::LANES, fence(0), 5), Some(path(2)));
        assert_eq!(gate.judge(path(2), 5), Judgement::Pass);
    }

    #[test]
    fn an_end_that_came_first_makes_nobody_wait() {
        let mut gate = FenceGate::default();
        assert_eq!(gate.handle_fence(PathId::LANES, fence(u32::MAX), 0), None);
        assert_eq!(gate.handle_fence(path(2), fence(u32::MAX), 1), None);
        assert_eq!(gate.judge(path(2), 1), Judgement::Pass);
        assert_eq!(gate.handle_fence(path(2), fence(0), 2), None, "the next one counts on");
        assert_eq!(gate.judge(path(2), 2), Judgement::Hold);
    }

    #[test]
    fn a_lost_end_holds_for_thirty_milliseconds_and_no_longer() {
        let mut gate = FenceGate::default();
        gate.handle_fence(path(2), fence(0), 100);
        assert_eq!(gate.judge(path(2), 129), Judgement::Hold);
        gate.handle_fence(path(2), fence(1), 129);
        assert_eq!(gate.due(129), None);
        assert_eq!(gate.judge(path(2), 130), Judgement::Release, "a second fence does not prolong it");
        assert_eq!(gate.judge(path(2), 130), Judgement::Pass);
        gate.handle_fence(PathId::DUAL, Fence { number: 2, from: path(2), to: PathId::DUAL }, 200);
        assert_eq!((gate.due(229), gate.due(230), gate.due(230)), (None, Some(PathId::DUAL), None));
    }

    #[test]
    fn no_more_is_held_than_allowed_and_foreign_ways_hold_nothing() {
        let mut gate = FenceGate::default();
        gate.handle_fence(path(3), fence(0), 0);
        assert_eq!(gate.judge(path(2), 0), Judgement::Pass);
        gate.handle_fence(path(2), fence(0), 0);
        let held = (0..).take_while(|_| gate.judge(path(2), 0) == Judgement::Hold).count();
        assert_eq!(held, HELD_MAX as usize);
    }
}
