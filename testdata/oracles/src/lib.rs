//! Other readers, as judges in tests; this library itself is empty.
#![forbid(unsafe_code)]
