//! Whole numbers without a bound, for tests: what the recurrence of `model.rs` gives with no rounding at all.
//! Never part of what ships.

/// A whole number, least significant limb first, no zero at the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Big(Vec<u64>);

impl Big {
    pub(super) fn new(value: u64) -> Self {
        Self(vec![value]).trimmed()
    }

    fn trimmed(mut self) -> Self {
        while self.0.last() == Some(&0) {
            self.0.pop();
        }
        self
    }

    pub(super) fn times(&self, factor: u64) -> Self {
        let mut carry = 0u128;
        let mut limbs: Vec<u64> = Vec::with_capacity(self.0.len() + 1);
        for limb in &self.0 {
            let product = u128::from(*limb) * u128::from(factor) + carry;
            limbs.push(product as u64);
            carry = product >> 64;
        }
        limbs.push(carry as u64);
        Self(limbs).trimmed()
    }

    pub(super) fn plus(&self, other: &Self) -> Self {
        let length = self.0.len().max(other.0.len());
        let (mut carry, mut limbs) = (0u128, Vec::with_capacity(length + 1));
        for at in 0..length {
            let limb = |big: &Self| u128::from(big.0.get(at).copied().unwrap_or(0));
            let sum = limb(self) + limb(other) + carry;
            limbs.push(sum as u64);
            carry = sum >> 64;
        }
        limbs.push(carry as u64);
        Self(limbs).trimmed()
    }

    /// Panics where `other` is larger.
    pub(super) fn minus(&self, other: &Self) -> Self {
        let (mut borrow, mut limbs) = (0i128, Vec::with_capacity(self.0.len()));
        for at in 0..self.0.len().max(other.0.len()) {
            let limb = |big: &Self| i128::from(big.0.get(at).copied().unwrap_or(0));
            let difference = limb(self) - limb(other) - borrow;
            limbs.push(difference as u64);
            borrow = i128::from(difference < 0);
        }
        assert_eq!(borrow, 0, "less than nothing");
        Self(limbs).trimmed()
    }

    /// The natural logarithm, right to about 2^-52 of itself.
    pub(super) fn ln(&self) -> f64 {
        let limb = |back: usize| self.0.len().checked_sub(back).map_or(0.0, |at| self.0[at] as f64);
        let top = limb(1) + limb(2) / 2f64.powi(64);
        top.ln() + (self.0.len() as f64 - 1.0) * 64.0 * core::f64::consts::LN_2
    }
}

#[test]
fn whole_numbers_add_up() {
    let power = (0..5).fold(Big::new(1), |power, _| power.times(1 << 63));
    assert!((power.ln() - 315.0 * core::f64::consts::LN_2).abs() < 1e-12);
    let less = power.minus(&Big::new(1));
    assert_eq!(less.plus(&Big::new(1)), power);
    assert_eq!(less.times(3).plus(&Big::new(3)), power.times(3));
    assert_eq!(power.minus(&power), Big::new(0));
}
