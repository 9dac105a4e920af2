//! `shoal plan` with real nodes and without any: what it promises, what it refuses, its exit codes.

use std::process::Output;

use serde_json::Value;
use shoal_tests::process::{Shoal, Shoald};

const SHOALD: &str = env!("CARGO_BIN_EXE_test-shoald");
const SHOAL: &str = env!("CARGO_BIN_EXE_test-shoal");

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn expect(output: &Output, code: i32) {
    let (said, errors) = (stdout(output), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "stdout: {said}\nstderr: {errors}");
}

fn report(output: &Output) -> Value {
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["operation"], "plan");
    report["details"].clone()
}

fn code<'a>(details: &'a Value, name: &str) -> &'a Value {
    details["codes"].as_array().unwrap().iter().find(|row| row["code"] == name).unwrap()
}

#[test]
fn a_plan_of_live_nodes_names_what_takes_a_file_with_it() {
    let room = tempfile::tempdir().unwrap();
    let mut nodes: Vec<Shoald> = Vec::new();
    for n in 0..5 {
        let first = nodes.first().map(|node| node.address.clone());
        let mut arguments = vec!["--open", "--quota", "100MB"];
        arguments.extend(first.iter().flat_map(|first| ["--bootstrap", first]));
        if n < 3 {
            arguments.extend(["--domain", "cellar"]);
        }
        nodes.push(Shoald::start(SHOALD, &room.path().join(format!("n{n}")), &arguments).unwrap());
    }
    let shoal = Shoal::new(SHOAL, &room.path().join("home"));
    let peers: Vec<&str> = nodes.iter().flat_map(|node| ["--peer", node.address.as_str()]).collect();
    let plan = |words: &[&str]| shoal.run(&[&["plan"], words, &peers].concat()).unwrap();

    let all = plan(&["--json", "--size", "50MB"]);
    expect(&all, 0);
    let details = report(&all);
    assert_eq!((&details["live_nodes"], &details["default"]), (&Value::from(5), &Value::from("2+2")));
    assert!((1..=500_000_000).contains(&details["free_bytes"].as_u64().unwrap()), "{details}");
    let mobile = code(&details, "3+2");
    assert_eq!((&mobile["spares"], &mobile["spread"], &mobile["room"]), (&0.into(), &false.into(), &true.into()));
    assert_eq!(mobile["loses_file"][0]["domain"], "cellar");
    assert_eq!(code(&details, "2+2")["loses_file"].as_array().unwrap().len(), 0);
    assert_eq!(code(&details, "2+2")["spares"], 1);
    assert!(details["warnings"].to_string().contains("losing cellar loses a file of 3+2"), "{details}");
    assert_eq!(details["recommended"], "2+2");

    let readable = plan(&["--size", "50MB"]);
    expect(&readable, 0);
    let text = stdout(&readable);
    assert!(text.lines().last().unwrap().starts_with("recommended: --code 2+2"), "{text}");
    // What is recommended is what an upload then does.
    let file = room.path().join("file");
    std::fs::write(&file, b"x").unwrap();
    let dry =
        shoal.run(&[&["upload", "--dry-run", "--json", file.to_str().unwrap()], peers.as_slice()].concat()).unwrap();
    expect(&dry, 0);
    assert_eq!(report_of(&dry)["code"], "2+2");

    expect(&plan(&["--code", "4+2"]), 16);
    expect(&plan(&["--target-nines", "90"]), 16);
    let full = plan(&["--size", "5GB", "--json"]);
    expect(&full, 15);
    assert_eq!(report(&full)["recommended"], Value::Null);
    expect(&shoal.run(&["plan", "--peer", "/ip4/127.0.0.1/tcp/1"]).unwrap(), 17);
}

fn report_of(output: &Output) -> Value {
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    report["details"].clone()
}

#[test]
fn a_plan_without_a_swarm_asks_nobody() {
    let room = tempfile::tempdir().unwrap();
    let shoal = Shoal::new(SHOAL, &room.path().join("home"));
    let plan = |words: &[&str]| shoal.run(&[&["plan", "--json"], words].concat()).unwrap();
    // A peer that is not there is not asked either.
    let ten = plan(&["--nodes", "20", "--target-nines", "11", "--peer", "/ip4/127.0.0.1/tcp/1"]);
    expect(&ten, 0);
    let details = report(&ten);
    assert_eq!(
        (&details["offline"], &details["free_bytes"], &details["recommended"]),
        (&true.into(), &Value::Null, &"8+8".into())
    );
    let nines = code(&details, "8+8")["nines_repaired"].as_f64().unwrap();
    assert!((nines - 20.6).abs() < 0.1, "the published figure for 8 % and 24 h: {nines}");
    let slow = report(&plan(&["--nodes", "20", "--code", "8+8", "--afr", "25", "--repair-hours", "168"]));
    let nines = code(&slow, "8+8")["nines_repaired"].as_f64().unwrap();
    assert!((nines - 9.2).abs() < 0.1, "the published figure for 25 % and 7 days: {nines}");
    assert_eq!(slow["codes"].as_array().unwrap().len(), 1);

    expect(&plan(&["--nodes", "1"]), 16);
    expect(&plan(&["--nodes", "5", "--code", "4+2"]), 16);
    expect(&plan(&["--nodes", "5", "--afr", "100"]), 2);
    expect(&shoal.run(&["plan"]).unwrap(), 17);
    assert!(!room.path().join("home").join("peers.json").exists());
}
