//! Entry point of the fuzzer: what it asserts is in `tests/src/fuzz`, and it does nothing else.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    shoal_tests::fuzz::socks_message(data);
});
