//! rehost.
#![forbid(unsafe_code)]
