//! Domain-separated BLAKE3: one context constant per use, length-prefixed material, so that no two uses can collide.

/// A BLAKE3 `derive_key` context. Each is used for exactly one purpose; `docs/PROTOCOL.md` tables them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context(&'static str);

impl Context {
    /// The context string as BLAKE3 receives it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.0
    }
}

macro_rules! contexts {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        $($(#[$doc])* pub const $name: Context = Context($text);)*
        /// Every context there is, for the test that no two are alike.
        pub const ALL: &[Context] = &[$($name),*];
    };
}

contexts! {
    /// Network id from genesis key and name.
    NETWORK = "shoal network v1";
    /// File id from the owner key.
    FILE = "shoal file v1";
    /// Lease group id from the owner key.
    GROUP = "shoal group v1";
    /// Record key from kind, signer and index.
    RECORD_KEY = "shoal record key v1";
    /// Hash of a signed record, named by its successor.
    RECORD_LINK = "shoal record link v1";
    /// Key-encryption key from the argon2id output.
    KEK = "shoal kek v1";
    /// Slot key from the KEK and the slot's salt.
    SLOT_KEY = "shoal slot key v1";
    /// Key commitment of a slot.
    SLOT_COMMITMENT = "shoal slot commitment v1";
    /// Owner signing seed from the root key.
    OWNER = "shoal owner v1";
    /// Read key from the root key.
    READ = "shoal read v1";
    /// Verify key from the read key.
    VERIFY = "shoal verify v1";
    /// Steward signing seed from the verify key.
    STEWARD = "shoal steward v1";
    /// Locator secret from the root key.
    LOCATOR = "shoal locator v1";
    /// Data segment key from the read key.
    SEGMENT = "shoal segment v1";
    /// Page segment key from the verify key.
    PAGE = "shoal page v1";
    /// Read section key of a page from the read key.
    PAGE_READ = "shoal page read v1";
    /// Mask key of a shard from the verify key.
    MASK = "shoal mask v1";
    /// Audit token key from the verify key.
    AUDIT_TOKEN = "shoal audit token v1";
    /// Owner record key from the locator secret.
    OWNER_RECORD = "shoal owner record v1";
    /// Placement record key from the verify key.
    PLACEMENT_RECORD = "shoal placement record v1";
    /// Upload journal key from the root key.
    JOURNAL = "shoal journal v1";
    /// Key of the marks a journal knows plaintext segments by, from the root key.
    JOURNAL_MARK = "shoal journal mark v1";
    /// Name of a journal file.
    JOURNAL_NAME = "shoal journal name v1";
    /// Rendezvous weight of a node for a file or record.
    RENDEZVOUS = "shoal rendezvous v1";
    /// Positions of an audit.
    AUDIT_POSITIONS = "shoal audit positions v1";
    /// Whole-shard audit answer.
    AUDIT_WHOLE = "shoal audit whole v1";
    /// Digest an audit answer is signed over.
    AUDIT_ANSWER = "shoal audit answer v1";
    /// Challenge of one round of whole-shard audits of one shard.
    AUDIT_CHALLENGE = "shoal audit challenge v1";
    /// Checksum of a transcript file.
    AUDIT_TRANSCRIPT = "shoal audit transcript v1";
    /// Key of all MACs in a node's segment log: segment headers, record headers, tables. Their magics tell them apart.
    LOG_HEADER = "shoal log header v1";
    /// Key of a cached page in a local manifest file, from the verify key.
    MANIFEST_PAGE = "shoal manifest page v1";
    /// Checksum of a local manifest file.
    MANIFEST_FILE = "shoal manifest file v1";
    /// Mask over the introduction of an initiator.
    MESH_INTRODUCTION = "shoal mesh introduction v1";
    /// First MAC of a handshake message.
    MESH_MAC1 = "shoal mesh mac1 v1";
    /// Second MAC of an initiation, from a cookie.
    MESH_MAC2 = "shoal mesh mac2 v1";
    /// Cookie of a source, from a responder's secret.
    MESH_COOKIE = "shoal mesh cookie v1";
    /// Key a cookie is sealed under.
    MESH_COOKIE_KEY = "shoal mesh cookie key v1";
    /// Key of the data frames of one direction of a session, from the handshake.
    MESH_DATA = "shoal mesh data v1";
    /// IPv4 candidate of a node in a network's pool.
    MESH_IPV4 = "shoal mesh ipv4 v1";
    /// Digest of the routes one neighbour told another.
    MESH_ROUTES = "shoal mesh routes v1";
}

/// Derives 32 bytes for `context` from `parts`, each preceded by its length as u64 little-endian.
#[must_use]
pub fn derive(context: Context, parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = deriver(context, parts);
    let out = *hasher.finalize().as_bytes();
    hasher.reset();
    out
}

/// The hasher behind [`derive()`], for uses that need more than 32 bytes of output.
#[must_use]
pub fn deriver(context: Context, parts: &[&[u8]]) -> blake3::Hasher {
    let mut hasher = blake3::Hasher::new_derive_key(context.as_str());
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hasher
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_are_distinct() {
        let mut seen = std::collections::BTreeSet::new();
        for context in ALL {
            assert!(seen.insert(context.as_str()), "{} is used twice", context.as_str());
        }
    }

    #[test]
    fn parts_are_separated() {
        assert_ne!(derive(FILE, &[b"ab", b"c"]), derive(FILE, &[b"a", b"bc"]));
        assert_ne!(derive(FILE, &[b"ab"]), derive(FILE, &[b"ab", b""]));
        assert_ne!(derive(FILE, &[b"a"]), derive(GROUP, &[b"a"]));
    }
}
