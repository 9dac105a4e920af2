//! Which code a file gets: by profile and count of live nodes, or as asked. It never looks at who the nodes are.

use core::fmt;
use core::str::FromStr;

use shoal_protocol::layout::{Code, CodeError};

use super::{PlacementError, Warning};

/// What the owner wants from a code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// As wide as the swarm allows, half of it parity.
    #[default]
    Balanced,
    /// 3+2: few shards to send over a poor uplink.
    Mobile,
    /// 10+20: survives the loss of two thirds; scaled down where nodes are few.
    Resilient,
    /// Exactly this code.
    Exact(Code),
}

/// The code chosen, and what there is to say about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The code.
    pub code: Code,
    /// At most one: scaled down.
    pub warnings: Vec<Warning>,
}

/// The code of `profile` among `live_nodes` distinct nodes.
///
/// # Errors
/// [`PlacementError::NotEnoughNodes`] if the code needs more; no profile goes below two nodes.
pub fn choose(profile: Profile, live_nodes: usize) -> Result<Choice, PlacementError> {
    let (data, parity) = match profile {
        Profile::Balanced => balanced(live_nodes),
        Profile::Mobile => (3, 2),
        Profile::Resilient => resilient(live_nodes),
        Profile::Exact(code) => (code.data, code.parity),
    };
    let code = Code { data, parity };
    if live_nodes < code.n() {
        return Err(PlacementError::NotEnoughNodes { have: live_nodes, need: code.n() });
    }
    let scaled_down = profile == Profile::Resilient && code != RESILIENT;
    let warnings = if scaled_down { vec![Warning::ScaledDown { wanted: RESILIENT, code }] } else { vec![] };
    Ok(Choice { code, warnings })
}

const RESILIENT: Code = Code { data: 10, parity: 20 };

const fn balanced(live_nodes: usize) -> (u8, u8) {
    match live_nodes {
        0..=2 => (1, 1),
        3 => (1, 2),
        4..=6 => (2, 2),
        7..=9 => (3, 3),
        10..=19 => (4, 4),
        20..=39 => (8, 8),
        40.. => (16, 16),
    }
}

/// One third data, two thirds parity, at most 10+20, at least 1+1.
fn resilient(live_nodes: usize) -> (u8, u8) {
    let nodes = u8::try_from(live_nodes).unwrap_or(u8::MAX).clamp(2, 30);
    let data = (nodes / 3).max(1);
    (data, (2 * data).min(nodes - data))
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Balanced => f.write_str("balanced"),
            Self::Mobile => f.write_str("mobile"),
            Self::Resilient => f.write_str("resilient"),
            Self::Exact(code) => code.fmt(f),
        }
    }
}

/// A profile name nobody knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown profile {0:?}; known are balanced, mobile and resilient")]
pub struct UnknownProfile(pub String);

impl FromStr for Profile {
    type Err = UnknownProfile;

    fn from_str(text: &str) -> Result<Self, UnknownProfile> {
        match text {
            "balanced" => Ok(Self::Balanced),
            "mobile" => Ok(Self::Mobile),
            "resilient" => Ok(Self::Resilient),
            other => Err(UnknownProfile(other.chars().take(40).collect())),
        }
    }
}

/// Why a text is no code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodeTextError {
    /// Not two numbers around a plus.
    #[error("a code is written DATA+PARITY, such as 4+2, not {0:?}")]
    Form(String),
    /// Two numbers that make no code.
    #[error(transparent)]
    Range(#[from] CodeError),
}

/// Reads `k+m`, such as `4+2`: decimal digits only, no sign, no space.
///
/// # Errors
/// [`CodeTextError`], worded for whoever typed it.
pub fn parse_code(text: &str) -> Result<Code, CodeTextError> {
    let form = || CodeTextError::Form(text.chars().take(40).collect());
    let number = |digits: &str| {
        let plain = (1..=9).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
        plain.then(|| digits.parse::<usize>().ok()).flatten().ok_or_else(form)
    };
    let (data, parity) = text.split_once('+').ok_or_else(form)?;
    Ok(Code::new(number(data)?, number(parity)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(profile: Profile, live: usize) -> String {
        choose(profile, live).map_or_else(|error| error.to_string(), |choice| choice.code.to_string())
    }

    #[test]
    fn balanced_follows_the_table() {
        let table = [
            (2, "1+1"),
            (3, "1+2"),
            (4, "2+2"),
            (6, "2+2"),
            (7, "3+3"),
            (9, "3+3"),
            (10, "4+4"),
            (19, "4+4"),
            (20, "8+8"),
            (39, "8+8"),
            (40, "16+16"),
            (100_000, "16+16"),
        ];
        for (live, expected) in table {
            assert_eq!(code(Profile::Balanced, live), expected, "{live} nodes");
        }
        assert_eq!(code(Profile::Balanced, 1), "1 usable nodes, 2 needed");
        assert_eq!(choose(Profile::Balanced, 0), Err(PlacementError::NotEnoughNodes { have: 0, need: 2 }));
    }

    #[test]
    fn resilient_shrinks_with_a_warning() {
        assert_eq!(choose(Profile::Resilient, 30).unwrap(), Choice { code: RESILIENT, warnings: vec![] });
        assert_eq!(code(Profile::Resilient, 1000), "10+20");
        for (live, expected) in [(2, "1+1"), (3, "1+2"), (5, "1+2"), (6, "2+4"), (29, "9+18")] {
            let choice = choose(Profile::Resilient, live).unwrap();
            assert_eq!(choice.code.to_string(), expected);
            assert_eq!(choice.warnings, [Warning::ScaledDown { wanted: RESILIENT, code: choice.code }]);
        }
        assert!(choose(Profile::Resilient, 1).is_err());
    }

    #[test]
    fn fixed_codes_need_their_nodes() {
        assert_eq!(code(Profile::Mobile, 5), "3+2");
        assert_eq!(choose(Profile::Mobile, 4), Err(PlacementError::NotEnoughNodes { have: 4, need: 5 }));
        let exact = Profile::Exact(parse_code("4+2").unwrap());
        assert_eq!(code(exact, 6), "4+2");
        assert_eq!(choose(exact, 5), Err(PlacementError::NotEnoughNodes { have: 5, need: 6 }));
    }

    #[test]
    fn code_texts() {
        assert_eq!(parse_code("4+2"), Ok(Code { data: 4, parity: 2 }));
        assert_eq!(parse_code("254+1"), Ok(Code { data: 254, parity: 1 }));
        for text in ["", "4", "4+", "+2", "4 + 2", "4+2+1", "-4+2", "4++2", "0x4+2", "4+2 ", "٤+٢", "9999999999+1"] {
            assert!(matches!(parse_code(text), Err(CodeTextError::Form(_))), "{text:?}");
        }
        for text in ["0+2", "4+0", "255+1", "128+128", "999999999+1"] {
            assert!(matches!(parse_code(text), Err(CodeTextError::Range(_))), "{text:?}");
        }
        assert_eq!(
            parse_code("4x2").unwrap_err().to_string(),
            "a code is written DATA+PARITY, such as 4+2, not \"4x2\""
        );
    }

    #[test]
    fn names_round_trip() {
        for name in ["balanced", "mobile", "resilient"] {
            assert_eq!(name.parse::<Profile>().unwrap().to_string(), name);
        }
        assert!("fast".parse::<Profile>().is_err());
    }
}
