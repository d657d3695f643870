//! Hostile input for one parser; see `rehost_fuzzing::Target::Xfs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    rehost_fuzzing::Target::Xfs.run(input);
});
