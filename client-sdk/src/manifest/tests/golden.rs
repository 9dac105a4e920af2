//! Golden bytes of the page, both records, the capability strings and the manifest file: a change here is a change of
//! format and needs a new version number.

use core::fmt::Write as _;

use super::*;

#[test]
fn formats_match_the_golden_file() {
    let upload = upload();
    let manifest = upload.manifest();
    let all = capabilities(&root(), &network(), &hints());
    let rows = [
        ("page 0", &upload.pages[0].1),
        ("owner record", &manifest.owner_record),
        ("placement record", &manifest.placement_records[0]),
        ("manifest file", &manifest.encode().unwrap()),
    ];
    let mut text = String::new();
    for (name, bytes) in rows {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(text, "{name} = {hex}").unwrap();
    }
    for capability in [all.locate, all.read, all.verify, all.owner] {
        writeln!(text, "{:?} capability = {}", capability.kind(), *capability.to_text()).unwrap();
    }
    assert_eq!(text, include_str!("../../../golden/manifest.txt"));
}
