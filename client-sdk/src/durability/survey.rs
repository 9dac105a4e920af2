//! Every code that fits a swarm with its figures, and which of them to take. It stores nothing and asks nobody.

use core::cmp::Reverse;

use shoal_protocol::layout::{Code, SegmentShape, padme};

use super::{Churn, Odds, lost_together, yearly_loss};
use crate::placement::{Candidate, Outlook, PlacementError, Profile, choose, outlook};

/// Shares of time for which holders are taken to be away, independently: a good and an ordinary home machine.
pub const AWAY: [f64; 2] = [0.05, 0.10];

/// Codes a survey looks at besides those of the profiles, from few nodes to many.
pub const CODES: [Code; 16] = [
    Code { data: 1, parity: 1 },
    Code { data: 1, parity: 2 },
    Code { data: 2, parity: 2 },
    Code { data: 3, parity: 2 },
    Code { data: 2, parity: 4 },
    Code { data: 3, parity: 3 },
    Code { data: 4, parity: 2 },
    Code { data: 4, parity: 4 },
    Code { data: 4, parity: 8 },
    Code { data: 8, parity: 4 },
    Code { data: 8, parity: 8 },
    Code { data: 10, parity: 20 },
    Code { data: 16, parity: 16 },
    Code { data: 20, parity: 20 },
    Code { data: 20, parity: 40 },
    Code { data: 29, parity: 51 },
];

/// The profiles that have a name.
const PROFILES: [Profile; 3] = [Profile::Balanced, Profile::Mobile, Profile::Resilient];

/// What is asked.
#[derive(Clone, Debug, Default)]
pub struct Question {
    /// Only this profile or code; else all.
    pub only: Option<Profile>,
    /// Bytes of the file, where known.
    pub size: Option<u64>,
    /// Nines a year that are wanted.
    pub target_nines: Option<f64>,
    /// How nodes come to their end.
    pub churn: Churn,
}

/// One code among these nodes.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The code.
    pub code: Code,
    /// Named profiles that give it here.
    pub profiles: Vec<Profile>,
    /// Bytes stored for one byte of a large file.
    pub cost: f64,
    /// Bytes of shards one holder takes, and segments; where a size was given.
    pub size: Option<(u64, u64)>,
    /// Domains and spares, among the nodes that answer, room or not.
    pub outlook: Outlook,
    /// Whether enough nodes have room for their shards.
    pub room: bool,
    /// Loss within a year, lost shards being made anew from the first on.
    pub repaired: Odds,
    /// The same for segments that fail apart, where a size was given.
    pub apart: Option<Odds>,
    /// Loss within a year in which nothing is made anew.
    pub unrepaired: Odds,
    /// Unreadable now, for the shares of [`AWAY`].
    pub away: [Odds; 2],
}

impl Row {
    /// Nines a year that this swarm can give: with no spare node nothing can be made anew.
    #[must_use]
    pub fn nines(&self) -> f64 {
        if self.outlook.spares(self.code) > 0 { self.repaired.nines() } else { self.unrepaired.nines() }
    }

    /// Whether one domain may take a whole file with it.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        !self.outlook.fatal.is_empty()
    }

    /// Whether it keeps what `target` nines promise: room, no domain that takes all, and the nines.
    fn keeps(&self, target: f64) -> bool {
        self.room && !self.is_fatal() && self.nines() >= target
    }
}

/// The answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Survey {
    /// All codes that fit, those of few nodes first.
    pub rows: Vec<Row>,
    /// The row an upload without options takes, if it is among them.
    pub default: Option<usize>,
    /// The row to take; none if nothing has room or reaches the target.
    pub recommended: Option<usize>,
}

/// Looks at every code that fits `candidates`, or at the one asked for.
///
/// Recommended is the cheapest code that reaches the target, of those of one price the one with the most nines. Without
/// a target it is the default if that has room and no domain takes all of it, else the best that has room.
///
/// # Errors
/// [`PlacementError::NotEnoughNodes`] where no code fits: fewer than two usable nodes, or fewer than the one asked for
/// needs.
pub fn survey(question: &Question, candidates: &[Candidate]) -> Result<Survey, PlacementError> {
    let live = candidates.len();
    let default = choose(Profile::Balanced, live).map(|choice| choice.code);
    let mut codes: Vec<Code> = match question.only {
        Some(profile) => vec![choose(profile, live)?.code],
        None => {
            let named = PROFILES.into_iter().filter_map(|profile| Some(choose(profile, live).ok()?.code));
            named.chain(CODES).collect()
        }
    };
    codes.sort_unstable_by_key(|code| (code.n(), code.k()));
    codes.dedup();
    let mut rows = Vec::with_capacity(codes.len());
    let mut missing = None;
    for code in codes {
        match row(question, code, candidates) {
            Ok(row) => rows.push(row),
            Err(error) => missing = missing.or(Some(error)),
        }
    }
    if rows.is_empty() {
        return Err(missing.unwrap_or(PlacementError::NotEnoughNodes { have: live, need: 2 }));
    }
    let default = default.ok().and_then(|code| rows.iter().position(|row| row.code == code));
    let recommended = recommended(&rows, default, question.target_nines);
    Ok(Survey { rows, default, recommended })
}

fn row(question: &Question, code: Code, candidates: &[Candidate]) -> Result<Row, PlacementError> {
    let outlook_here = outlook(code, candidates, 0)?;
    let size = question.size.map(|size| size_in_code(code, size));
    let room = size.is_none_or(|(slot_bytes, _)| outlook(code, candidates, slot_bytes).is_ok());
    // A repair at the first loss: what is lost later is found earlier.
    let hazard = yearly_loss(code, code.n().saturating_sub(1), &question.churn);
    let profiles = PROFILES.into_iter();
    let gives = |profile: &Profile| choose(*profile, candidates.len()).is_ok_and(|choice| choice.code == code);
    Ok(Row {
        code,
        profiles: profiles.filter(gives).collect(),
        cost: f64::from(u16::from(code.data) + u16::from(code.parity)) / f64::from(code.data),
        size,
        outlook: outlook_here,
        room,
        repaired: hazard.year(),
        apart: size.map(|(_, segments)| hazard.year_apart(segments)),
        unrepaired: lost_together(code, question.churn.yearly_failures()),
        away: AWAY.map(|away| lost_together(code, away)),
    })
}

/// Bytes of shards one slot takes for a file of `size` bytes, and the segments it is cut into. Pages and records come on
/// top: some hundred kilobytes a gigabyte. Saturates.
#[must_use]
pub fn size_in_code(code: Code, size: u64) -> (u64, u64) {
    let padded = padme(size);
    let segment_bytes = code.segment_plain() as u64;
    let shard_bytes = |plain: u64| {
        let shape = usize::try_from(plain).ok().and_then(|plain| SegmentShape::new(code, plain).ok());
        shape.map_or(0, |shape| shape.shard_length() as u64)
    };
    let (full, rest) = (padded / segment_bytes, padded % segment_bytes);
    let bytes = full.saturating_mul(shard_bytes(segment_bytes)).saturating_add(shard_bytes(rest));
    (bytes, full.saturating_add(u64::from(rest > 0)))
}

fn recommended(rows: &[Row], default: Option<usize>, target_nines: Option<f64>) -> Option<usize> {
    let best = |fits: &dyn Fn(&Row) -> bool, better: &dyn Fn(&Row, &Row) -> bool| {
        rows.iter().enumerate().filter(|(_, row)| fits(row)).fold(None, |best, (at, row)| match best {
            Some((_, kept)) if !better(row, kept) => best,
            _ => Some((at, row)),
        })
    };
    let found = match target_nines {
        Some(target) => best(&|row| row.keeps(target), &|row, kept| {
            row.cost < kept.cost || (row.cost <= kept.cost && row.nines() > kept.nines())
        }),
        None => {
            let sound = default.and_then(|at| Some((at, rows.get(at)?))).filter(|(_, row)| row.keeps(0.0));
            let rank = |row: &Row| (Reverse(row.is_fatal()), row.outlook.is_spread());
            sound.or_else(|| {
                best(&|row| row.room, &|row, kept| {
                    rank(row).cmp(&rank(kept)).then(row.nines().total_cmp(&kept.nines())).is_gt()
                })
            })
        }
    };
    found.map(|(at, _)| at)
}
