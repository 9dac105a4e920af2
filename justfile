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
    cargo bench -p shoal-tests --bench store -- {{rows}}

# Figures of the storage loop beside their bars (docs/BENCHMARKS.md): codec loop tahoe memory idle. It gates nothing.
bench-loop *rows:
    cargo bench -p shoal-tests --bench loop -- {{rows}}

# Figures of the tunnel beside their bars and beside what else is installed: compare shaped forged. Needs root. It gates nothing.
bench-tunnel *rows:
    cargo bench -p shoal-tests --bench tunnel -- {{rows}}

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

fuzz_flags := "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares"
fuzz_host := `rustc -vV | sed -n 's/^host: //p'`
fuzz_bin := "fuzz/target" / fuzz_host / "release"

# The fuzz targets with coverage counters, on the stable toolchain; needs a C++ compiler. The target is named so that
# build scripts stay as they are.
fuzz-build *arguments:
    cd fuzz && CARGO_TARGET_DIR=target RUSTFLAGS="{{fuzz_flags}}" cargo build --release --target {{fuzz_host}} {{arguments}}

# One target for so many seconds. What is new goes to fuzz/found, what fails to fuzz/artifacts.
fuzz target seconds="60": (fuzz-build "--bin" target) (fuzz-run target seconds)

# All targets, one after the other, for so many seconds each.
fuzz-all seconds="60": fuzz-build
    for target in fuzz/corpus/*; do just fuzz-run "$(basename "$target")" {{seconds}}; done

[private]
fuzz-run target seconds:
    mkdir -p fuzz/found/{{target}} fuzz/artifacts/{{target}}
    {{fuzz_bin}}/{{target}} -max_total_time={{seconds}} -max_len=16384 -rss_limit_mb=1024 -timeout=10 -print_final_stats=1 -artifact_prefix=fuzz/artifacts/{{target}}/ fuzz/found/{{target}} fuzz/corpus/{{target}}

# Adds to the committed corpus of a target what reaches new code among fuzz/found, smallest inputs first.
fuzz-merge target: (fuzz-build "--bin" target)
    {{fuzz_bin}}/{{target}} -merge=1 fuzz/corpus/{{target}} fuzz/found/{{target}}
