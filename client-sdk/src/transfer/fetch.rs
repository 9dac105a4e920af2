//! One rectangular fetch: some columns of some rows of one segment, from whoever still has them.
//!
//! The data columns that are wanted are asked for directly: a range inside one frame costs one node. When one of them
//! fails or stalls, a replica of it is asked next; without one, any `k` distinct columns will do and further ones are
//! asked for until `k` are there. What stalled may still arrive. The session knows nothing of bytes, peers or time.

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

/// What is known of the holder of a unit before it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chance {
    /// There is none to ask.
    None,
    /// It was silent when it was last asked for anything: only if nobody better is left.
    Poor,
    /// Nothing speaks against it.
    Good,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum UnitState {
    Unasked,
    /// Not asked yet, of a holder with a poor chance.
    Avoided,
    Asked,
    /// Asked and silent for too long: others are asked meanwhile.
    Stalled,
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
    /// A fetch of the data columns `wanted`, where `chances` says for every unit what is known of its holder.
    #[must_use]
    pub fn new(code: Code, wanted: impl IntoIterator<Item = usize>, chances: &[Chance]) -> Self {
        let state = |chance: &Chance| match chance {
            Chance::None => UnitState::Gone,
            Chance::Poor => UnitState::Avoided,
            Chance::Good => UnitState::Unasked,
        };
        let units = chances.iter().map(state).collect();
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

    /// The unit was asked for and is silent for too long. It may still arrive.
    pub fn stalled(&mut self, unit: usize) {
        if self.units.get(unit) == Some(&UnitState::Asked) {
            self.set(unit, UnitState::Stalled);
            self.plan();
        }
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

    /// The first unit of every column that has one in this state, in column order.
    fn first_of(&self, wanted: UnitState) -> BTreeMap<usize, usize> {
        let mut first = BTreeMap::new();
        for (unit, _) in self.units.iter().enumerate().filter(|(_, state)| **state == wanted) {
            first.entry(unit % self.code.n()).or_insert(unit);
        }
        first
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
        let unasked = self.first_of(UnitState::Unasked);
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
        // A column of which one unit has a poor chance may have a better replica, which then comes first.
        let avoided = self.first_of(UnitState::Avoided).into_iter().filter(|(column, _)| !unasked.contains_key(column));
        let more: Vec<usize> = unasked
            .iter()
            .map(|(column, unit)| (*column, *unit))
            .chain(avoided)
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

    const GOOD: Chance = Chance::Good;

    fn drain(session: &mut FetchSession) -> Vec<usize> {
        std::iter::from_fn(|| session.poll()).collect()
    }

    #[test]
    fn one_column_costs_one_unit_when_its_holder_is_there() {
        let mut session = FetchSession::new(Code::new(4, 2).unwrap(), [2], &[GOOD; 6]);
        assert_eq!(drain(&mut session), [2]);
        session.arrived(2);
        assert_eq!(session.state(), FetchState::Direct);
    }

    #[test]
    fn a_lost_column_is_rebuilt_from_k_others() {
        let mut session = FetchSession::new(Code::new(4, 2).unwrap(), [2], &[GOOD; 6]);
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
        let mut session = FetchSession::new(Code::new(2, 1).unwrap(), [0, 1], &[GOOD; 6]);
        assert_eq!(drain(&mut session), [0, 1]);
        session.failed(1);
        assert_eq!(drain(&mut session), [4]);
        session.arrived(0);
        session.arrived(4);
        assert_eq!(session.state(), FetchState::Direct);
    }

    #[test]
    fn too_few_columns_fail_at_once() {
        let session = FetchSession::new(
            Code::new(4, 2).unwrap(),
            0..4,
            &[GOOD, GOOD, GOOD, Chance::None, Chance::None, Chance::None],
        );
        assert_eq!(session.state(), FetchState::Failed { have: 3 });
        let mut one = FetchSession::new(
            Code::new(4, 2).unwrap(),
            [1],
            &[Chance::None, GOOD, Chance::None, Chance::None, Chance::None, Chance::None],
        );
        assert_eq!(drain(&mut one), [1]);
        one.failed(1);
        assert_eq!(one.state(), FetchState::Failed { have: 0 });
    }

    #[test]
    fn a_stalled_unit_is_hedged_once_and_may_still_win() {
        let mut session = FetchSession::new(Code::new(4, 2).unwrap(), 0..4, &[GOOD; 6]);
        assert_eq!(drain(&mut session), [0, 1, 2, 3]);
        session.stalled(2);
        assert_eq!(drain(&mut session), [4]);
        session.stalled(2);
        assert!(drain(&mut session).is_empty());
        [0, 1, 3].into_iter().for_each(|unit| session.arrived(unit));
        let mut other = FetchSession::new(Code::new(4, 2).unwrap(), 0..4, &[GOOD; 6]);
        drain(&mut other);
        other.stalled(2);
        [0, 1, 2, 3].into_iter().for_each(|unit| other.arrived(unit));
        assert_eq!(other.state(), FetchState::Direct);
        session.arrived(4);
        assert_eq!(session.state(), FetchState::Rebuild);
    }

    #[test]
    fn everybody_stalled_is_still_pending() {
        let mut session = FetchSession::new(Code::new(2, 1).unwrap(), 0..2, &[GOOD; 3]);
        for unit in [0, 1, 2] {
            drain(&mut session);
            session.stalled(unit);
        }
        assert_eq!(session.state(), FetchState::Pending);
        session.failed(0);
        session.arrived(1);
        session.arrived(2);
        assert_eq!(session.state(), FetchState::Rebuild);
    }

    #[test]
    fn holders_with_a_poor_chance_are_asked_last() {
        let chances = [Chance::Poor, GOOD, GOOD, GOOD, GOOD, Chance::Poor];
        let mut session = FetchSession::new(Code::new(4, 2).unwrap(), 0..4, &chances);
        assert_eq!(drain(&mut session), [1, 2, 3, 4]);
        session.failed(3);
        assert_eq!(drain(&mut session), [0]);
        let replicas = [Chance::Poor, GOOD, GOOD, GOOD, GOOD, GOOD];
        let mut session = FetchSession::new(Code::new(2, 1).unwrap(), [0], &replicas);
        assert_eq!(drain(&mut session), [3], "another replica of the same column");
    }

    #[test]
    fn any_order_of_answers_ends_right() {
        let code = Code::new(3, 3).unwrap();
        for lost in 0u32..64 {
            let mut session = FetchSession::new(code, 0..3, &[GOOD; 6]);
            while session.state() == FetchState::Pending {
                let unit = session.poll().expect("pending without a question");
                if lost & (1 << unit) == 0 { session.arrived(unit) } else { session.failed(unit) }
            }
            let enough = (lost.count_ones() as usize) <= code.m();
            assert_eq!(matches!(session.state(), FetchState::Direct | FetchState::Rebuild), enough, "{lost:06b}");
        }
    }
}
