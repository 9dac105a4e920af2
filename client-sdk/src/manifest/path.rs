//! The order of entries and the safety of their paths, checked one entry after the other. It never looks at a disk.

use shoal_protocol::page::{EntryKind, is_safe_path};

/// Why an entry may not follow the ones before it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Absolute, too long, or with an empty, `.` or `..` component.
    #[error("path {0:?} is not a safe relative path")]
    Unsafe(String),
    /// Not after the entry before it, by bytes of the whole path.
    #[error("path {0:?} is out of order or there twice")]
    Order(String),
    /// Lies below a file or link: writing it would follow the link.
    #[error("path {0:?} lies below something that is not a directory")]
    NotBelowDirectory(String),
}

/// What the entries so far allow the next one to be.
///
/// In byte order all paths that begin with one text are neighbours, so only those non-directories can be ancestors of
/// the next path that are a beginning of the one before: their lengths are a stack.
#[derive(Debug, Default)]
pub(super) struct PathOrder {
    last: String,
    files: Vec<usize>,
}

impl PathOrder {
    /// Takes the next entry.
    pub(super) fn push(&mut self, path: &str, kind: EntryKind) -> Result<(), PathError> {
        if !is_safe_path(path) {
            return Err(PathError::Unsafe(path.chars().take(200).collect()));
        }
        if path <= self.last.as_str() {
            return Err(PathError::Order(path.into()));
        }
        let common = path.bytes().zip(self.last.bytes()).take_while(|(a, b)| a == b).count();
        while self.files.last().is_some_and(|&length| length > common) {
            self.files.pop();
        }
        if self.files.iter().any(|&length| path.as_bytes().get(length) == Some(&b'/')) {
            return Err(PathError::NotBelowDirectory(path.into()));
        }
        if kind != EntryKind::Directory {
            self.files.push(path.len());
        }
        path.clone_into(&mut self.last);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(entries: &[(&str, EntryKind)]) -> Result<(), PathError> {
        let mut order = PathOrder::default();
        entries.iter().try_for_each(|(path, kind)| order.push(path, *kind))
    }

    #[test]
    fn nothing_lies_below_a_file_or_link() {
        use EntryKind::{Directory, File, Symlink};
        assert_eq!(all(&[("a", Directory), ("a-b", File), ("a/b", File), ("a/c", Symlink), ("a0", File)]), Ok(()));
        for kind in [File, Symlink] {
            assert!(matches!(all(&[("a", kind), ("a/b", File)]), Err(PathError::NotBelowDirectory(_))));
            let apart = [("a", kind), ("a-b", File), ("a-c/d", File), ("a/b/c", File)];
            assert!(matches!(all(&apart), Err(PathError::NotBelowDirectory(_))));
        }
        assert_eq!(all(&[("a/b", File), ("a/bc", File), ("a/c/d", File), ("b", File), ("é/ü", File)]), Ok(()));
    }

    #[test]
    fn order_and_safety() {
        use EntryKind::File;
        assert!(matches!(all(&[("b", File), ("a", File)]), Err(PathError::Order(_))));
        assert!(matches!(all(&[("a", File), ("a", File)]), Err(PathError::Order(_))));
        for path in ["", "../a", "/a", "a/", "a//b", "a\0"] {
            assert!(matches!(all(&[(path, File)]), Err(PathError::Unsafe(_))), "{path:?}");
        }
    }
}
