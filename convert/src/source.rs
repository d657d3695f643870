//! Where a machine comes from: readers of other hypervisors' machine descriptions.

pub mod vmx;
