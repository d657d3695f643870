//! What a migration leaves for its hypervisor besides the disk images.

pub mod libvirt;
