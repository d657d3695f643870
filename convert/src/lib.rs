//! rehost.
#![forbid(unsafe_code)]

pub mod copy;
pub mod source;
