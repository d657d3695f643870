//! rehost.
#![forbid(unsafe_code)]

pub mod copy;
