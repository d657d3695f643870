//! Keys of encrypted volumes that are bound to hardware or to a network: LUKS2's tokens.
//!
//! LUKS2 On-Disk Format Specification 3.2, "Token"; systemd-cryptenroll(1); clevis(1). What a token
//! unlocks with does not move with the disk. Keyslots that no token names take a passphrase or a key
//! file.

use std::collections::BTreeSet;
use std::sync::Arc;

use rehost_block::{Disk, DiskStorage};
use rehost_volume::stack::Use;

use super::Volumes;
use crate::model::Severity;

/// Types of tokens, and what each unlocks with.
const KINDS: [(&str, &str); 4] = [
    ("systemd-tpm2", "a TPM"),
    ("systemd-fido2", "a FIDO2 stick"),
    ("systemd-pkcs11", "a smart card"),
    ("clevis", "Clevis (a TPM or a key server)"),
];

impl Volumes {
    /// Adds a finding for each encrypted volume that such a token unlocks.
    pub(super) fn find_tokens(&mut self) {
        let locked: Vec<(String, Arc<dyn Disk>)> = self
            .found
            .iter()
            .zip(&self.contents)
            .filter(|(volume, _)| volume.usage == Some(Use::Luks))
            .filter_map(|(volume, disk)| Some((volume.at.to_string(), disk.clone()?)))
            .collect();
        for (name, disk) in locked {
            // A header that cannot be read has its own finding.
            let storage = DiskStorage::new(&name, disk);
            let Ok(header) = rehost_luks::parse(&storage) else {
                continue;
            };
            let bound: BTreeSet<u32> = header
                .tokens()
                .iter()
                .filter(|token| with(&token.kind).is_some())
                .flat_map(|token| token.keyslots.iter().copied())
                .collect();
            let Some(means) = header.tokens().iter().find_map(|token| with(&token.kind)) else {
                continue;
            };
            let alone = bound.len() >= header.keyslots().len();
            let (severity, rest) = if alone {
                (Severity::Problem, "and by nothing else")
            } else {
                (
                    Severity::Warning,
                    "or by a passphrase or key file, which it will ask for",
                )
            };
            self.note(
                severity,
                "luks-hardware-token",
                format!("{name} is unlocked by {means}, which does not move with the disk, {rest}"),
                Some(
                    "add a recovery key in the guest (systemd-cryptenroll --recovery-key) before the \
                     move, and enrol the new machine after it"
                        .to_owned(),
                ),
            );
        }
    }
}

fn with(kind: &str) -> Option<&'static str> {
    let known = KINDS.iter().find(|(known, _)| *known == kind)?;
    Some(known.1)
}
