//! Fuzz bodies: one function a decoder of remote or stored bytes. Each takes any bytes, asserts what must hold for them,
//! and says whether something was understood. It never opens a socket or a real file.
//!
//! `fuzz/fuzz_targets` calls them under libFuzzer, `tests/tests/fuzz.rs` over the committed corpus and over mutations of
//! it. A body that signs, seals or checksums does so rightly around whatever the fuzzer chose, so that what is behind a
//! signature, a tag or a MAC is reached too.

use std::sync::OnceLock;

use tokio::runtime::Runtime;

mod input;
mod journal;
mod local;
mod log;
mod mesh_control;
mod mesh_names;
mod mesh_packet;
mod mesh_session;
mod messages;
pub mod mutate;
mod pages;
mod records;
mod shards;
mod socks;
mod statements;
mod store;
mod texts;

pub use journal::upload_journal;
pub use local::{admin_request, audit_transcript, home_file, node_config, voucher_log};
pub use log::{record_header, segment_footer, segment_header, store_files, store_index};
pub use mesh_control::{mesh_claim, mesh_flood, mesh_prefix, mesh_route};
pub use mesh_names::{mesh_dns, mesh_name};
pub use mesh_packet::{mesh_credit, mesh_offload, mesh_packet, mesh_policy, mesh_relay, mesh_virtio};
pub use mesh_session::{mesh_frame, mesh_handshake, mesh_key, mesh_message};
pub use messages::{control_frames, control_request, control_response, lane_message, lane_stream};
pub use pages::{manifest_file, page, page_tree};
pub use records::{key_slots, record_body, sealed_box, sealed_record};
pub use shards::{audit, client_retrieve, client_store, slice};
pub use socks::socks_message;
pub use statements::{peer_records, signed_envelope, signed_statement};
pub use store::store_directory;
pub use texts::{address, capability, identifier};

/// One body with what is known of it.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Name of the function, of its entry point and of its corpus.
    pub name: &'static str,
    /// The body; whether the bytes were understood.
    pub run: fn(&[u8]) -> bool,
    /// Inputs to begin with: golden bytes and one of each way through the body.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Most memory one input may take beyond what was in use before it, bytes: harness and decoder together.
    pub memory: usize,
}

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

macro_rules! targets {
    ($($name:ident, $seeds:path, $memory:expr;)*) => {
        /// Every body there is.
        pub const TARGETS: &[Target] =
            &[$(Target { name: stringify!($name), run: $name, seeds: $seeds, memory: $memory }),*];
    };
}

targets! {
    address, texts::addresses, 64 * KIB;
    admin_request, local::requests, 256 * KIB;
    audit, shards::audits, 64 * KIB;
    audit_transcript, local::transcripts, MIB;
    capability, texts::capabilities, 64 * KIB;
    client_retrieve, shards::retrievals, 2 * MIB;
    client_store, shards::stores, MIB;
    control_frames, messages::control_streams, MIB;
    control_request, messages::requests, MIB;
    control_response, messages::responses, MIB;
    home_file, local::home_files, 256 * KIB;
    identifier, texts::identifiers, 64 * KIB;
    key_slots, records::slots, 64 * KIB;
    lane_message, messages::lane_messages, 256 * KIB;
    lane_stream, messages::lane_streams, MIB;
    manifest_file, pages::manifests, MIB;
    mesh_claim, mesh_control::claims, 256 * KIB;
    mesh_credit, mesh_packet::lanes, 64 * KIB;
    mesh_dns, mesh_names::questions, 256 * KIB;
    mesh_flood, mesh_control::floods, 256 * KIB;
    mesh_frame, mesh_session::frames, 256 * KIB;
    mesh_handshake, mesh_session::handshakes, 256 * KIB;
    mesh_key, mesh_session::keys, 256 * KIB;
    mesh_message, mesh_session::messages, 64 * KIB;
    mesh_name, mesh_names::claims, 256 * KIB;
    mesh_offload, mesh_packet::offloads, 256 * KIB;
    mesh_packet, mesh_packet::packets, 64 * KIB;
    mesh_policy, mesh_packet::policies, MIB;
    mesh_prefix, mesh_control::prefixes, 64 * KIB;
    mesh_relay, mesh_packet::relayed, 64 * KIB;
    mesh_route, mesh_control::routes, MIB;
    mesh_virtio, mesh_packet::virtio_packets, 64 * KIB;
    node_config, local::configs, MIB;
    page, pages::pages, 256 * KIB;
    page_tree, pages::trees, MIB;
    peer_records, statements::peers, MIB;
    record_body, records::record_bodies, 256 * KIB;
    record_header, log::headers, 64 * KIB;
    sealed_box, records::boxes, 64 * KIB;
    sealed_record, records::sealed_records, 256 * KIB;
    segment_footer, log::footers, 64 * KIB;
    segment_header, log::segment_headers, 64 * KIB;
    signed_envelope, statements::envelopes, 64 * KIB;
    signed_statement, statements::statements, 256 * KIB;
    slice, shards::slices, MIB;
    socks_message, socks::messages, 64 * KIB;
    store_directory, store::directories, 16 * MIB;
    store_files, log::files, 64 * KIB;
    store_index, log::indexes, 256 * KIB;
    upload_journal, journal::journals, 256 * KIB;
    voucher_log, local::voucher_logs, 256 * KIB;
}

/// What waits here waits for memory alone, and for blocking threads of the store.
fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| match tokio::runtime::Builder::new_current_thread().enable_time().build() {
        Ok(runtime) => runtime,
        Err(error) => panic!("no runtime: {error}"),
    })
}
