//! Rust text without its comments, literals and tests, and where its functions begin and end. A scanner of brackets,
//! no parser: it understands what rustfmt leaves behind and no more.

use std::fs;
use std::path::{Path, PathBuf};

/// One file, by its path below the repository.
#[derive(Debug, Clone)]
pub struct Source {
    pub path: String,
    pub text: String,
}

impl Source {
    pub fn new(path: &str, text: &str) -> Self {
        Self { path: path.into(), text: text.into() }
    }

    /// Code alone: comments and the inside of literals are spaces, lines stay where they are.
    pub fn code(&self) -> String {
        strip(&self.text)
    }

    /// Code that ships: without `#[cfg(test)]` modules, nothing at all of a test file.
    pub fn shipped(&self) -> String {
        if self.is_test() { String::new() } else { without_tests(&self.code()) }
    }

    pub fn is_test(&self) -> bool {
        self.path.starts_with("tests/tests/") || self.path.contains("/tests/") || self.path.ends_with("/tests.rs")
    }

    /// Lines of the file, less those of its test modules.
    pub fn lines(&self) -> usize {
        let code = self.code();
        let tests = if self.is_test() { 0 } else { test_spans(&code).iter().map(|span| line_count(&code, span)).sum() };
        self.text.lines().count() - tests
    }
}

fn line_count(text: &str, span: &(usize, usize)) -> usize {
    text[span.0..span.1].lines().count()
}

/// Every file of the repository but build output and version control.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// Paths of all files, relative, in order.
pub fn files() -> Vec<String> {
    let root = repository();
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                if !matches!(name.as_str(), "target" | ".git") {
                    folders.push(path);
                }
            } else {
                found.push(path.strip_prefix(&root).unwrap().to_string_lossy().into_owned());
            }
        }
    }
    found.sort();
    found
}

/// All files that end like this, read.
pub fn sources(ending: &str) -> Vec<Source> {
    let read = |path: String| fs::read_to_string(repository().join(&path)).ok().map(|text| Source { path, text });
    files().into_iter().filter(|path| path.ends_with(ending)).filter_map(read).collect()
}

/// Comments and literals blanked.
pub fn strip(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = literal_or_comment(bytes, at);
        match end {
            Some(end) => {
                out[at..end].iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
                at = end;
            }
            None => at += 1,
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The end of the comment or literal that begins at `at`, if one does.
fn literal_or_comment(bytes: &[u8], at: usize) -> Option<usize> {
    let rest = &bytes[at..];
    let word_before = at > 0 && is_word(bytes[at - 1]);
    match rest {
        [b'/', b'/', ..] => Some(at + rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len())),
        [b'/', b'*', ..] => Some(block_comment_end(bytes, at)),
        [b'"', ..] => Some(string_end(bytes, at + 1)),
        [b'r', b'"' | b'#', ..] if !word_before => raw_string_end(bytes, at + 1),
        [b'b', b'r', b'"' | b'#', ..] if !word_before => raw_string_end(bytes, at + 2),
        [b'\'', ..] => char_end(bytes, at),
        _ => None,
    }
}

fn block_comment_end(bytes: &[u8], at: usize) -> usize {
    let (mut depth, mut at) = (0usize, at);
    while at < bytes.len() {
        match &bytes[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] if depth == 1 => return at + 2,
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
    }
    bytes.len()
}

fn string_end(bytes: &[u8], mut at: usize) -> usize {
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

fn raw_string_end(bytes: &[u8], at: usize) -> Option<usize> {
    let hashes = bytes[at..].iter().take_while(|byte| **byte == b'#').count();
    if bytes.get(at + hashes) != Some(&b'"') {
        return None;
    }
    let mut closing = vec![b'"'];
    closing.resize(1 + hashes, b'#');
    let body = at + hashes + 1;
    let found = bytes[body..].windows(closing.len()).position(|window| window == closing);
    Some(found.map_or(bytes.len(), |found| body + found + closing.len()))
}

/// A character literal; a lifetime is none.
fn char_end(bytes: &[u8], at: usize) -> Option<usize> {
    if bytes.get(at + 1) == Some(&b'\\') {
        let closing = bytes[at + 3..].iter().position(|byte| *byte == b'\'')?;
        return Some(at + 3 + closing + 1);
    }
    let width = std::str::from_utf8(bytes.get(at + 1..bytes.len().min(at + 5))?)
        .or_else(|error| std::str::from_utf8(&bytes[at + 1..at + 1 + error.valid_up_to()]))
        .ok()?
        .chars()
        .next()?
        .len_utf8();
    (bytes.get(at + 1 + width) == Some(&b'\'')).then_some(at + width + 2)
}

pub fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Where `word` stands as a word of its own.
pub fn words(code: &str, word: &str) -> Vec<usize> {
    let bytes = code.as_bytes();
    let alone = |at: usize| {
        let before = at.checked_sub(1).is_some_and(|at| is_word(bytes[at]));
        let after = bytes.get(at + word.len()).is_some_and(|byte| is_word(*byte));
        !before && !after
    };
    code.match_indices(word).map(|(at, _)| at).filter(|at| alone(*at)).collect()
}

/// The line a byte is on, from 1.
pub fn line_of(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

/// The end of the block that opens at or after `at`; none if a `;` comes first.
fn block_end(code: &str, at: usize) -> Option<(usize, usize)> {
    let bytes = code.as_bytes();
    let (mut depth, mut nested, mut start) = (0usize, 0usize, None);
    for (offset, byte) in bytes[at..].iter().enumerate() {
        match byte {
            b'(' | b'[' if start.is_none() => nested += 1,
            b')' | b']' if start.is_none() => nested = nested.saturating_sub(1),
            b';' if start.is_none() && nested == 0 => return None,
            b'{' => {
                start.get_or_insert(at + offset);
                depth += 1;
            }
            b'}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return start.map(|start| (start, at + offset + 1));
                }
            }
            _ => {}
        }
    }
    start.map(|start| (start, bytes.len()))
}

/// Modules under `#[cfg(test)]`, attribute to closing brace.
fn test_spans(code: &str) -> Vec<(usize, usize)> {
    let module = |at: &usize| {
        let (start, end) = block_end(code, *at)?;
        let is_module = !words(&code[*at..start], "mod").is_empty();
        is_module.then_some((*at, end))
    };
    code.match_indices("#[cfg(test)]").map(|(at, _)| at).filter_map(|at| module(&at)).collect()
}

fn without_tests(code: &str) -> String {
    let mut bytes = code.as_bytes().to_vec();
    for (from, to) in test_spans(code) {
        bytes[from..to].iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A function with a body.
#[derive(Debug, PartialEq, Eq)]
pub struct Function {
    pub name: String,
    pub line: usize,
    /// Lines with code on them, signature included.
    pub lines: usize,
    /// The attribute `expect(clippy::too_many_lines, reason = ..)` stands before it.
    pub excused: bool,
}

/// Functions of stripped code.
pub fn functions(code: &str) -> Vec<Function> {
    let function = |at: usize| {
        let name: String =
            code[at + 2..].trim_start().bytes().take_while(|byte| is_word(*byte)).map(char::from).collect();
        let (_, end) = block_end(code, at).filter(|_| !name.is_empty())?;
        let lines = code[at..end].lines().filter(|line| !line.trim().is_empty()).count();
        let item = code[..at].rfind(['}', ';', '{']).map_or(0, |before| before + 1);
        let excused = code[item..at].contains("expect(clippy::too_many_lines");
        Some(Function { name, line: line_of(code, at), lines, excused })
    };
    words(code, "fn").into_iter().filter_map(function).collect()
}
