//! The word that was probably meant. It changes nothing by itself.

/// The closest of `known` to `unknown`, if it is at most three changes away and not a different word altogether.
#[must_use]
pub fn closest<'a>(unknown: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    let (distance, name) = known.map(|name| (distance(unknown, name), name)).min()?;
    (distance <= 3 && distance < unknown.chars().count()).then(|| name.to_owned())
}

/// The key or word that an unknown one was probably meant to be, from the message of the parser of TOML, which has all of
/// them in backquotes.
#[must_use]
pub fn meant(message: &str) -> Option<String> {
    let unknown = ["unknown field `", "unknown variant `"].iter().find_map(|start| message.split_once(start))?.1;
    let mut names = unknown.split('`').step_by(2);
    let unknown = names.next()?;
    closest(unknown, names)
}

/// Levenshtein distance: how many characters to insert, remove or replace.
fn distance(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.chars().count()).collect();
    for (line, a) in from.chars().enumerate() {
        let mut left = line.saturating_add(1);
        let mut next = vec![left];
        for ((b, above), above_left) in to.chars().zip(row.iter().skip(1)).zip(&row) {
            let replaced = above_left.saturating_add(usize::from(a != b));
            left = replaced.min(above.saturating_add(1)).min(left.saturating_add(1));
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn close_words_are_found_and_others_are_not() {
        let known = || ["rules", "groups", "exits"].into_iter();
        assert_eq!(closest("ruls", known()).as_deref(), Some("rules"));
        assert_eq!(closest("group", known()).as_deref(), Some("groups"));
        assert_eq!(closest("x", known()), None);
        assert_eq!(closest("prefixes-of-all", known()), None);
    }
}
