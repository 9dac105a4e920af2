//! Does the suite of the store notice when a safety step is taken away? Each of these changes removes one; with it the
//! tests beside the store must fail. Quick: every change still fits the code. Long: all of them are tried, in a copy.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use shoal_tests::budget::{is_long, say};

/// One safety step, and the edits (file, text, replacement) that remove it.
struct Mutation {
    step: &'static str,
    edits: &'static [(&'static str, &'static str, &'static str)],
}

const STORE: &str = "node/src/chunks";

const MUTATIONS: [Mutation; 11] = [
    Mutation {
        step: "the fdatasync of a batch",
        edits: &[("segment.rs", "        self.file.sync_data().inspect_err(|_| self.unsure = true)?;\n", "")],
    },
    Mutation {
        step: "the fsync of the directory of a new segment",
        edits: &[("segment.rs", ".and_then(|active| vfs.sync_dir(&segments_dir(data)).map(|()| active))", "")],
    },
    Mutation {
        step: "the MAC of a header",
        edits: &[(
            "record.rs",
            "RECORD_MAGIC[..] || !same(&bytes[112..], &self.mac(&bytes[..112]))",
            "RECORD_MAGIC[..]",
        )],
    },
    Mutation {
        step: "the check for misdirected writes",
        edits: &[(
            "record.rs",
            "u64::from_le_bytes(take(bytes, 96)) != segment || u64::from_le_bytes(take(bytes, 104)) != offset",
            "segment == u64::MAX && offset == u64::MAX",
        )],
    },
    Mutation {
        step: "the poisoning after a failed sync",
        edits: &[(
            "commit.rs",
            "let usable = is_no_space(error) && !active.unsure && (untouched || active.roll_back().is_ok());",
            "let usable = untouched || active.roll_back().is_ok();",
        )],
    },
    Mutation {
        step: "resynchronising by MAC only",
        edits: &[
            ("record.rs", "    fn mac(&self, bytes: &[u8])", "    pub(crate) fn mac(&self, bytes: &[u8])"),
            (
                "scan.rs",
                "let entry = match self.codec.check_header(header, u64::from(self.number), at) {",
                "let mut trusted = *header;\n        \
                 let mac = self.codec.mac(&trusted[..112]);\n        \
                 trusted[112..].copy_from_slice(&mac);\n        \
                 let entry = match self.codec.check_header(&trusted, u64::from(self.number), at) {",
            ),
        ],
    },
    Mutation {
        step: "writing the last batch again at open",
        edits: &[(
            "recovery.rs",
            "        write_at(file, &bytes, start).map_err(io_error(\"write\", path))",
            "        Ok(())",
        )],
    },
    Mutation {
        step: "keeping tombstones that still bury something",
        edits: &[("jobs/compact.rs", "self.needed.contains(&entry.sequence).then_some(draft)", "None")],
    },
    Mutation {
        step: "the sequence number of a copy",
        edits: &[(
            "commit.rs",
            "let sequence = draft.sequence.unwrap_or(self.next_sequence);",
            "let sequence = self.next_sequence;\n            self.next_sequence += 1;",
        )],
    },
    Mutation {
        step: "the marker beside the segments",
        edits: &[(
            "identity.rs",
            "    match check_marker(vfs, data, &codec) {\n        // It",
            "    match Ok(()) {\n        // It",
        )],
    },
    Mutation {
        step: "publishing only what is durable",
        edits: &[(
            "commit.rs",
            "            Err(error) => Err(self.give_up(active, &error, false)),",
            "            Err(error) => {\n                self.note(&error);\n                self.active = Some(active);\n                \
             Ok(entries)\n            }",
        )],
    },
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

#[test]
fn every_change_that_removes_a_safety_step_still_fits_the_code() {
    for Mutation { step, edits } in &MUTATIONS {
        for (file, text, replacement) in *edits {
            let code = fs::read_to_string(root().join(STORE).join(file)).unwrap();
            assert_eq!(code.matches(text).count(), 1, "{step}: {file} has this once: {text}");
            assert_ne!(text, replacement);
        }
    }
}

#[test]
fn the_suite_of_the_store_fails_without_any_one_of_them() {
    if !is_long() {
        say("mutations: quick budget, only that they fit is checked");
        return;
    }
    let room = tempfile::tempdir().unwrap();
    let copy = room.path().join("copy");
    copy_tree(&root(), &copy);
    let sound = suite(&copy);
    assert!(sound.status.success(), "the copy fails as it is:\n{}", text(&sound));
    for Mutation { step, edits } in &MUTATIONS {
        let files: Vec<(PathBuf, String)> = edits.iter().map(|(file, ..)| original(&copy, file)).collect();
        for (file, text, replacement) in *edits {
            let path = copy.join(STORE).join(file);
            let code = fs::read_to_string(&path).unwrap();
            fs::write(&path, code.replacen(text, replacement, 1)).unwrap();
        }
        let found = suite(&copy);
        let output = text(&found);
        assert!(!found.status.success(), "nobody misses {step}");
        assert!(output.contains("test result: FAILED"), "without {step} it does not even compile:\n{output}");
        let failed = output.lines().filter(|line| line.ends_with("... FAILED")).count();
        say(&format!("without {step}: {failed} tests fail"));
        for (path, code) in files {
            fs::write(path, code).unwrap();
        }
    }
}

fn original(copy: &Path, file: &str) -> (PathBuf, String) {
    let path = copy.join(STORE).join(file);
    let code = fs::read_to_string(&path).unwrap();
    (path, code)
}

/// Runs the tests beside the store, with the quick budgets, in the target directory these tests were built in.
fn suite(copy: &Path) -> Output {
    let exe = std::env::current_exe().unwrap();
    let target = exe.ancestors().nth(3).unwrap();
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["test", "--offline", "-p", "shoal-node", "--lib", "chunks::"]).current_dir(copy);
    cargo.env("CARGO_TARGET_DIR", target).env_remove("SHOAL_LONG").output().unwrap()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (name, kind) = (entry.file_name(), entry.file_type().unwrap());
        if kind.is_dir() && name != "target" && name != ".git" {
            copy_tree(&entry.path(), &to.join(&name));
        } else if kind.is_file() {
            fs::copy(entry.path(), to.join(&name)).unwrap();
        }
    }
}
