//! inject.
#![forbid(unsafe_code)]
