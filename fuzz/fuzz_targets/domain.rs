//! Hostile input for one parser; see `rehost_fuzzing::Target::Domain`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    rehost_fuzzing::Target::Domain.run(input);
});
