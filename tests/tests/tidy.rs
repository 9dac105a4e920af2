//! The house rules, checked over the whole repository; each rule is also fed something it must refuse. It changes
//! nothing and reads nothing outside the repository.

#[path = "tidy/rules.rs"]
mod rules;
#[path = "tidy/scan.rs"]
mod scan;

use std::process::Command;

use rules::*;
use scan::{Function, Source, files, functions, repository, sources, strip};

/// Files above the soft cap of 500 lines. A row goes when its file shrinks.
const EXCEPTIONS: [Exception; 0] = [];

/// One rule over many files; says everything that is wrong at once.
fn all(sources: &[Source], rule: impl Fn(&Source) -> Vec<String>) {
    assert!(sources.len() > 3, "the repository was not found");
    nothing(sources.iter().flat_map(rule).collect());
}

fn nothing(complaints: Vec<String>) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

fn rust() -> Vec<Source> {
    sources(".rs")
}

fn manifests() -> Vec<Source> {
    sources("Cargo.toml")
}

/// A rule refuses `bad` and lets `good` pass, both at `path`.
fn tells(rule: impl Fn(&Source) -> Vec<String>, path: &str, bad: &str, good: &str) {
    assert!(!rule(&Source::new(path, bad)).is_empty(), "{path}: accepts {bad:?}");
    assert_eq!(rule(&Source::new(path, good)), Vec::<String>::new(), "{path}: refuses {good:?}");
}

#[test]
fn files_begin_with_their_purpose() {
    tells(header, "a.rs", "use x;\n//! late", "//! What it is.\n");
    all(&rust(), header);
}

#[test]
fn files_are_short() {
    let long = "x\n".repeat(FILE_SOFT + 1);
    tells(|source| file_size(source, &[]), "a.rs", &long, &"x\n".repeat(FILE_SOFT));
    let row = || [Exception { path: "a.rs", reason: "one table" }];
    tells(|source| file_size(source, &row()), "a.rs", &"x\n".repeat(FILE_HARD + 1), &long);
    tells(|source| file_size(source, &[]), "a/tests.rs", &"x\n".repeat(FILE_HARD + 1), &long);
    let bare = [Exception { path: "a.rs", reason: "" }];
    assert!(!file_size(&Source::new("a.rs", &long), &bare).is_empty(), "an exception without a reason");
    let tested = format!("//! x\n#[cfg(test)]\nmod tests {{\n{}}}\n", "x\n".repeat(FILE_SOFT));
    assert!(file_size(&Source::new("a.rs", &tested), &[]).is_empty(), "tests do not count");
    assert!(!stale_exceptions(&[Source::new("a.rs", "x")], &row()).is_empty(), "a row nobody needs");

    let rust = rust();
    all(&rust, |source| file_size(source, &EXCEPTIONS));
    nothing(stale_exceptions(&rust, &EXCEPTIONS));
}

#[test]
fn functions_are_short() {
    let body = "    step();\n".repeat(FUNCTION_HARD);
    let long = format!("fn long() {{\n{body}}}\n");
    tells(function_size, "a.rs", &long, "fn short() {\n    step();\n}\n");
    tells(function_size, "a.rs", &long, &format!("#[cfg(test)]\nmod tests {{\n{long}}}\n"));
    tells(function_size, "a.rs", &long, &format!("#[expect(clippy::too_many_lines, reason = \"one table\")]\n{long}"));
    let comments = "    // why\n".repeat(FUNCTION_HARD);
    tells(function_size, "a.rs", &long, &format!("fn commented() {{\n{comments}}}\n"));
    all(&rust(), function_size);
}

#[test]
fn pure_code_names_no_runtime_clock_or_random_source() {
    for path in ["protocol/src/a.rs", "node/engine/src/a.rs", "client-sdk/src/transfer/a.rs"] {
        for bad in [
            "tokio::spawn(x)",
            "std::net::TcpStream",
            "std::fs::read(p)",
            "Instant::now()",
            "SystemTime::now()",
            "rand::thread_rng()",
        ] {
            tells(
                purity,
                path,
                bad,
                "// tokio\nlet x = \"std::fs\"; // SystemTime\nlet tokio_like = core::net::IpAddr;",
            );
        }
    }
    for path in ["client-sdk/src/net/a.rs", "client-sdk/src/client/a.rs", "client-sdk/src/memory.rs", "node/src/a.rs"] {
        assert!(!is_pure(path), "{path}");
    }
    all(&rust(), purity);
}

#[test]
fn client_without_net_pulls_in_no_runtime_and_no_c() {
    for bad in ["tokio v1.0.0", "libp2p-core v0.43.0", "aws-lc-sys v0.30.0", "ring v0.17.0", "cc v1.2.0"] {
        assert!(!wasm_tree(bad).is_empty(), "accepts {bad}");
    }
    assert_eq!(wasm_tree("shoal-client v0.1.0 (/x)\nblake3 v1.8.0\nringlike v1.0.0\nccm v1.0.0"), Vec::<String>::new());
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let arguments =
        "tree -p shoal-client --target wasm32-unknown-unknown -e normal --no-default-features --prefix none --offline";
    let run = Command::new(cargo).args(arguments.split(' ')).current_dir(repository()).output().unwrap();
    let tree = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success() && tree.contains("shoal-protocol"), "{}", String::from_utf8_lossy(&run.stderr));
    nothing(wasm_tree(&tree));
}

#[test]
fn only_the_swarm_names_libp2p() {
    tells(libp2p_in_code, "node/src/a.rs", "use libp2p::Swarm;", "// libp2p\nuse shoal_swarm::NodeId;");
    tells(
        libp2p_in_manifest,
        "node/Cargo.toml",
        "[dependencies]\nlibp2p.workspace = true",
        "[dependencies]\nserde.workspace = true",
    );
    tells(
        libp2p_in_manifest,
        "tests/Cargo.toml",
        "[dependencies]\nlibp2p.workspace = true",
        "[dev-dependencies]\nlibp2p.workspace = true",
    );
    all(&rust(), libp2p_in_code);
    all(&manifests(), libp2p_in_manifest);
}

#[test]
fn nothing_is_unsafe_unbounded_or_unfinished() {
    tells(unsafe_code, "node/src/a.rs", "let x = unsafe { y };", "#![deny(unsafe_code)] // unsafe");
    for bad in
        ["mpsc::unbounded_channel()", "futures::channel::mpsc::unbounded()", "mpsc::channel()", "mpsc::channel::<u8>()"]
    {
        tells(bounded_channels, "a.rs", bad, "mpsc::channel(8); mpsc::channel::<u8>(BOUND); mpsc::sync_channel(1)");
    }
    for name in ["todo", "unimplemented", "dbg"] {
        tells(unfinished, "a.rs", &format!("fn f() {{ {name}!(x) }}"), "let todo = 1; let s = \"dbg!\"; // todo!()");
    }
    let rust = rust();
    all(&rust, unsafe_code);
    all(&rust, bounded_channels);
    all(&rust, unfinished);
}

#[test]
fn no_key_is_in_the_repository() {
    for bad in ["node/node.key", "certs/a.pem"] {
        assert!(!key_material(bad, None).is_empty(), "accepts {bad}");
    }
    let pem = ["-----BEGIN ", "PRIVATE", " KEY-----"].concat();
    assert!(!key_material("a.txt", Some(&pem)).is_empty(), "accepts a key by another name");
    let identity = ["shoal-identity", "-1 00"].concat();
    assert!(!key_material("identity", Some(&identity)).is_empty(), "accepts an identity");
    assert_eq!(key_material("golden/keys.txt", Some("read = 00")), Vec::<String>::new());
    for path in files() {
        let text = std::fs::read_to_string(repository().join(&path)).ok();
        nothing(key_material(&path, text.as_deref()));
    }
}

#[test]
fn versions_and_features_are_in_one_place() {
    let good = "[dependencies]\na.workspace = true\nb = { workspace = true, optional = true }\n[features]\ndefault = []\nnet = []";
    for bad in [
        "[dependencies]\na = \"1\"",
        "[target.'cfg(unix)'.dependencies]\na = { version = \"1\" }",
        "[dev-dependencies.a]\nversion = \"1\"",
    ] {
        tells(member_versions, "a/Cargo.toml", bad, good);
    }
    for bad in ["[features]\nfast = []", "[features]\ndefault = [\"net\"]"] {
        tells(features, "a/Cargo.toml", bad, good);
    }
    let manifests = manifests();
    all(&manifests, member_versions);
    all(&manifests, features);
}

#[test]
fn every_golden_file_is_read() {
    let test = [Source::new("a.rs", "check(\"ids.txt\")")];
    assert!(!unread_golden(["p/golden/lost.hex"], &test).is_empty());
    assert_eq!(unread_golden(["p/golden/ids.txt", "p/src/lib.rs"], &test), Vec::<String>::new());
    let files = files();
    assert!(files.iter().any(|path| path.contains("/golden/")));
    nothing(unread_golden(files.iter().map(String::as_str), &rust()));
}

#[test]
fn documents_say_what_the_code_says() {
    assert!(!undocumented("A = \"shoal new v1\";", "`shoal old v1`").is_empty());
    assert_eq!(undocumented("A = \"shoal old v1\"; B = \"other\";", "`shoal old v1`"), Vec::<String>::new());
    let links = |source: &Source| document(source, |path| path == "docs/a.md");
    tells(links, "docs/x.md", "[a](b.md)", "[a](a.md) | SHOAL-A-1 |");
    tells(links, "docs/x.md", "| SHOAL-A-1 | x |\n| SHOAL-A-1 | y |", "| SHOAL-A-1 | x |\n| SHOAL-A-2 | y |");

    let protocol = std::fs::read_to_string(repository().join("docs/PROTOCOL.md")).unwrap();
    let code = sources(".rs").into_iter().filter(|source| source.path.starts_with("protocol/src/"));
    nothing(code.flat_map(|source| undocumented(&source.text, &protocol)).collect());
    let code = [Source::new("a/b.rs", "fn good() {}")];
    assert!(!lost_proofs(&Source::new("docs/x.md", "`a/b.rs::bad`, `c.rs::good`"), &code).is_empty());
    assert_eq!(lost_proofs(&Source::new("docs/x.md", "`a/b.rs::good`, `a/b.rs`"), &code), Vec::<String>::new());
    let rust = rust();
    all(&sources(".md"), |source| lost_proofs(source, &rust));
    all(&sources(".md"), |source| document(source, |path| repository().join(path.trim_start_matches('/')).exists()));
}

#[test]
fn the_scanner_sees_code_only() {
    let text = "a // b\n/* c /* d */ e */ f \"g \\\" h\" r#\"i \" j\"# 'k' '\\'' &'l m b\"n\" br\"o\" 'ü'";
    let seen: Vec<String> = strip(text).split_whitespace().map(str::to_owned).collect();
    assert_eq!(seen, ["a", "f", "&'l", "m", "b"]);
    let code =
        strip("trait T { fn none(&self); fn some(x: [u8; 4]) -> u8 { if x { 1 } else { 2 } }\n}\ntype F = fn(u8);");
    assert_eq!(functions(&code), [Function { name: "some".into(), line: 1, lines: 1, excused: false }]);
}
