//! One rectangular fetch: some columns of some rows of one segment, from whoever still has them.
//!
//! The data columns that are wanted are asked for directly: a range inside one frame costs one node. When one of them
//! fails, a replica of it is asked next; without one, any `k` distinct columns will do and further ones are asked for
//! until `k` are there. The session knows nothing of bytes, peers or time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use shoal_protocol::layout::Code;

/// How a fetch stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FetchState {
    /// Still asking.
    Pending,
    /// All wanted columns arrived themselves.
    Direct,
    /// `k` columns arrived; the wanted ones can be rebuilt.
    Rebuild,
    /// Fewer than `k` columns are left to ask.
    Failed {
        /// Columns that arrived or may still arrive.
        have: usize,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum UnitState {
    Unasked,
    Asked,
    Arrived,
    Gone,
}

/// One rectangular fetch. Units are numbered `replica x n + column`.
#[derive(Debug)]
pub struct FetchSession {
    code: Code,
    wanted: BTreeSet<usize>,
    units: Vec<UnitState>,
    queue: VecDeque<usize>,
    rebuilding: bool,
}

impl FetchSession {
    /// A fetch of the data columns `wanted`, where `available` says for every unit whether a holder is known.
    #[must_use]
    pub fn new(code: Code, wanted: impl IntoIterator<Item = usize>, available: &[bool]) -> Self {
        let units = available.iter().map(|known| if *known { UnitState::Unasked } else { UnitState::Gone }).collect();
        let wanted: BTreeSet<usize> = wanted.into_iter().filter(|column| *column < code.k()).collect();
        let mut session = Self { code, wanted, units, queue: VecDeque::new(), rebuilding: false };
        session.plan();
        session
    }

    /// The next unit to ask for.
    pub fn poll(&mut self) -> Option<usize> {
        self.queue.pop_front()
    }

    /// The unit arrived and verified.
    pub fn arrived(&mut self, unit: usize) {
        self.set(unit, UnitState::Arrived);
        self.plan();
    }

    /// The unit did not arrive, or was wrong.
    pub fn failed(&mut self, unit: usize) {
        self.set(unit, UnitState::Gone);
        self.plan();
    }

    /// Where it stands.
    #[must_use]
    pub fn state(&self) -> FetchState {
        let arrived = self.columns(|state| state == UnitState::Arrived);
        if self.wanted.is_subset(&arrived) {
            return FetchState::Direct;
        }
        if arrived.len() >= self.code.k() {
            return FetchState::Rebuild;
        }
        let possible = self.columns(|state| state != UnitState::Gone);
        if possible.len() < self.code.k() && !self.wanted.is_subset(&possible) {
            return FetchState::Failed { have: possible.len() };
        }
        FetchState::Pending
    }

    fn set(&mut self, unit: usize, state: UnitState) {
        if let Some(slot) = self.units.get_mut(unit) {
            *slot = state;
        }
    }

    fn columns(&self, keep: impl Fn(UnitState) -> bool) -> BTreeSet<usize> {
        let n = self.code.n();
        self.units.iter().enumerate().filter(|(_, state)| keep(**state)).map(|(unit, _)| unit % n).collect()
    }

    /// The best unasked unit of every column that has one, in column order.
    fn unasked(&self) -> BTreeMap<usize, usize> {
        let mut best = BTreeMap::new();
        for (unit, _) in self.units.iter().enumerate().filter(|(_, state)| **state == UnitState::Unasked) {
            best.entry(unit % self.code.n()).or_insert(unit);
        }
        best
    }

    fn ask(&mut self, unit: usize) {
        self.set(unit, UnitState::Asked);
        self.queue.push_back(unit);
    }

    fn plan(&mut self) {
        if self.state() != FetchState::Pending {
            self.queue.clear();
            return;
        }
        let underway = self.columns(|state| matches!(state, UnitState::Asked | UnitState::Arrived));
        let unasked = self.unasked();
        if !self.rebuilding {
            let missing: Vec<usize> = self.wanted.difference(&underway).copied().collect();
            let direct: Vec<usize> = missing.iter().filter_map(|column| unasked.get(column).copied()).collect();
            self.rebuilding = direct.len() < missing.len();
            if !self.rebuilding {
                direct.into_iter().for_each(|unit| self.ask(unit));
                return;
            }
        }
        let lacking = self.code.k().saturating_sub(underway.len());
        let more: Vec<usize> = unasked
            .into_iter()
            .filter(|(column, _)| !underway.contains(column))
            .map(|(_, unit)| unit)
            .take(lacking)
            .collect();
        more.into_iter().for_each(|unit| self.ask(unit));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(session: &mut FetchSession) -> Vec<usize> {
        std::iter::from_fn(|| session.poll()).collect()
    }

    #[test]
    fn one_column_costs_one_unit_when_its_holder_is_there() {
        let mut session = FetchSession::new(Code::new(4, 2).unwrap(), [2], &[true; 6]);
        assert_eq!(drain(&mut session), [2]);
        session.arrived(2);
        assert_eq!(session.state(), FetchState::Direct);
    }

    #[test]
    fn a_lost_column_is_rebuilt_from_k_others() {
        let mut session = FetchSession::new(Code::new(4, 2).unwrap(), [2], &[true; 6]);
        assert_eq!(drain(&mut session), [2]);
        session.failed(2);
        assert_eq!(drain(&mut session), [0, 1, 3, 4]);
        session.failed(3);
        assert_eq!(drain(&mut session), [5]);
        [0, 1, 4, 5].into_iter().for_each(|unit| session.arrived(unit));
        assert_eq!(session.state(), FetchState::Rebuild);
    }

    #[test]
    fn a_replica_is_asked_before_anything_is_rebuilt() {
        let mut session = FetchSession::new(Code::new(2, 1).unwrap(), [0, 1], &[true; 6]);
        assert_eq!(drain(&mut session), [0, 1]);
        session.failed(1);
        assert_eq!(drain(&mut session), [4]);
        session.arrived(0);
        session.arrived(4);
        assert_eq!(session.state(), FetchState::Direct);
    }

    #[test]
    fn too_few_columns_fail_at_once() {
        let session = FetchSession::new(Code::new(4, 2).unwrap(), 0..4, &[true, true, true, false, false, false]);
        assert_eq!(session.state(), FetchState::Failed { have: 3 });
        let mut one = FetchSession::new(Code::new(4, 2).unwrap(), [1], &[false, true, false, false, false, false]);
        assert_eq!(drain(&mut one), [1]);
        one.failed(1);
        assert_eq!(one.state(), FetchState::Failed { have: 0 });
    }

    #[test]
    fn any_order_of_answers_ends_right() {
        let code = Code::new(3, 3).unwrap();
        for lost in 0u32..64 {
            let mut session = FetchSession::new(code, 0..3, &[true; 6]);
            while session.state() == FetchState::Pending {
                let unit = session.poll().expect("pending without a question");
                if lost & (1 << unit) == 0 { session.arrived(unit) } else { session.failed(unit) }
            }
            let enough = (lost.count_ones() as usize) <= code.m();
            assert_eq!(matches!(session.state(), FetchState::Direct | FetchState::Rebuild), enough, "{lost:06b}");
        }
    }
}
