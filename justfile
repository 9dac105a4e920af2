# The one gate and its parts. `just verify` is what has to be green before anything is pushed.

set shell := ["bash", "-euo", "pipefail", "-c"]

# Format, lints, tests, tidy, docs, demo; deny where cargo-deny is installed.
verify: fmt lint test docs deny demo

fmt:
    cargo fmt --all --check

lint:
    cargo clippy --workspace --all-targets -- -D warnings

test:
    cargo test --workspace

# The long budgets of tests/src/budget.rs.
test-long:
    SHOAL_LONG=1 cargo test --workspace

# Figures of the store beside their limits (docs/BENCHMARKS.md); rows by name, all without. It gates nothing.
bench-store *rows:
    cargo bench -p shoal-node --bench store -- {{rows}}

tidy:
    cargo test -p shoal-tests --test tidy

docs:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

demo:
    cargo demo -- --once

# Bans, licences, sources. Needs cargo-deny.
deny:
    if command -v cargo-deny >/dev/null; then cargo deny check bans licenses sources; else echo "deny: SKIPPED, cargo-deny is not installed"; fi

# Advisories need a database from outside; without one this says so and proves nothing.
advisories:
    if cargo deny fetch >/dev/null 2>&1; then cargo deny check advisories; else echo "advisories: SKIPPED, no database"; fi
