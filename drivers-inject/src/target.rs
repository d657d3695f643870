//! What each kind of machine needs from a guest: a table.

/// A kind of machine that a guest is prepared for.
#[derive(Debug, PartialEq, Eq)]
pub struct Target {
    /// Its name on the command line.
    pub name: &'static str,
    /// Its name for people.
    pub title: &'static str,
    /// Modules that every initramfs shall hold. One that a kernel has built in is there already.
    pub modules: &'static [&'static str],
    /// Modules that go along where the kernel has them.
    pub optional: &'static [&'static str],
    /// Sets of drivers, each enough for the guest to find its disk, in order of preference.
    pub disk: &'static [&'static [&'static str]],
    /// Drivers of which one is enough for the network.
    pub network: &'static [&'static str],
}

/// QEMU/KVM with virtio devices.
pub const KVM: Target = Target {
    name: "kvm",
    title: "KVM with virtio devices",
    modules: &[
        "virtio_pci",
        "virtio_blk",
        "virtio_scsi",
        "virtio_net",
        "sd_mod",
    ],
    optional: &["virtio_console", "virtio_rng", "virtio_balloon"],
    disk: &[
        &["virtio_pci", "virtio_blk"],
        &["virtio_pci", "virtio_scsi", "sd_mod"],
    ],
    network: &["virtio_net"],
};

/// Every target.
pub const TARGETS: &[Target] = &[KVM];

impl Target {
    /// The target called `name`.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        TARGETS.iter().find(|target| target.name == name)
    }
}
