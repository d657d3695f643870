//! Entries of the Boot Loader Specification (type 1): `key value` lines.
//!
//! <https://uapi-group.org/specifications/specs/boot_loader_specification/>. Shared by GRUB's
//! `blscfg` and systemd-boot. Type 2 (unified kernel images) is in `unified`.

use crate::text::Text;

/// One `loader/entries/*.conf`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct BlsEntry {
    pub(crate) title: Option<String>,
    pub(crate) version: Option<String>,
    pub(crate) sort_key: Option<String>,
    pub(crate) linux: Option<String>,
    /// `uki` or `efi`: a program that is started instead of a kernel.
    pub(crate) program: Option<String>,
    /// Every `initrd` line, in order.
    pub(crate) initrds: Vec<String>,
    /// Every `options` line, in order.
    pub(crate) options: Vec<String>,
    /// Line of the first `options`, or of `linux`, or 1.
    pub(crate) options_line: u32,
}

/// Reads one entry; unknown keys are skipped, as the specification asks.
pub(crate) fn parse(text: &Text) -> BlsEntry {
    let mut entry = BlsEntry::default();
    let mut linux_line = 1;
    for (line, statement) in text.statements() {
        let (key, value) = statement
            .split_once(char::is_whitespace)
            .unwrap_or((statement, ""));
        let value = value.trim().to_owned();
        match key {
            "title" => entry.title = Some(value),
            "version" => entry.version = Some(value),
            "sort-key" => entry.sort_key = Some(value),
            "linux" => {
                entry.linux = Some(value);
                linux_line = line;
            }
            "uki" | "efi" => {
                entry.program = Some(value);
                linux_line = line;
            }
            "initrd" => entry.initrds.push(value),
            "options" => {
                if entry.options.is_empty() {
                    entry.options_line = line;
                }
                entry.options.push(value);
            }
            _ => {}
        }
    }
    if entry.options.is_empty() {
        entry.options_line = linux_line;
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fedora_entry_is_read_with_its_options_line() {
        let entry = parse(&Text::new(
            "/boot/loader/entries/x.conf",
            b"title Fedora Linux (6.5.6) 39\nversion 6.5.6\n# c\nlinux /vmlinuz-6.5.6\n\
              initrd /initramfs-6.5.6.img $tuned_initrd\noptions root=UUID=1 ro\noptions quiet\n\
              grub_users $grub_users\ngrub_class fedora\n",
        ));
        assert_eq!(entry.title.as_deref(), Some("Fedora Linux (6.5.6) 39"));
        assert_eq!(entry.linux.as_deref(), Some("/vmlinuz-6.5.6"));
        assert_eq!(entry.initrds, ["/initramfs-6.5.6.img $tuned_initrd"]);
        assert_eq!(entry.options, ["root=UUID=1 ro", "quiet"]);
        assert_eq!(entry.options_line, 6);
    }
}
