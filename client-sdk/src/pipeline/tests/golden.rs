//! Shard ids of fixed inputs: any change of layout, keys, ciphers or code shows here.

use core::fmt::Write as _;

use shoal_protocol::ShardId;

use super::*;

#[test]
fn shards_match_the_golden_file() {
    let mut text = String::new();
    for suite in SUITES {
        let layout = layout(suite, code(2, 2), 2);
        let page = PlainSegment::page(SegmentNumber::page(1).unwrap(), layout.code(), b"page").unwrap();
        let mut segments = seal_all(&layout, &pattern(140_000));
        segments.push(page.seal(&layout, &read_key(), [9; 32]).unwrap());
        for SegmentShards { number, reference, shards } in segments {
            writeln!(text, "{suite} segment {number} plain {} last {}", reference.plain, reference.last).unwrap();
            for (shard, id) in shards.iter().zip(reference.shards.iter()) {
                assert_eq!([shard.id, ShardId::of(&shard.bytes)], [id, id]);
                writeln!(text, "  {} {} bytes {}", shard.unit, shard.bytes.len(), id.to_hex()).unwrap();
            }
        }
    }
    assert_eq!(text, include_str!("../../../golden/shards.txt"));
}
