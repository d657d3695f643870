//! A serial console in the guest for good, only when asked for.

use rehost_block::Result;
use rehost_inspect::model::BootLoaderKind;

use super::text::{LineEdit, TextChanges};
use super::{Planner, SerialConsole};

/// The last one is `/dev/console`; systemd starts a login on it by itself.
const WORDS: &str = "console=tty0 console=ttyS0,115200";

/// Where `grub-mkconfig` takes the command line from.
const SOURCE: &str = "GRUB_CMDLINE_LINUX";

impl Planner<'_> {
    /// Wishes for every boot entry and what entries are generated from.
    pub(super) fn add_console(&mut self, changes: &mut TextChanges) -> Result<()> {
        if self.options.serial_console == SerialConsole::Leave {
            return Ok(());
        }
        let reason = "a serial console was asked for";
        let mut add = |path: &str, line: Option<u32>| {
            if let Some(line) = line {
                let words = WORDS.to_owned();
                changes.add(path, line, LineEdit::Append { words }, reason.to_owned());
            }
        };
        let has = |text: &str| {
            text.split_whitespace()
                .any(|w| w.starts_with("console=ttyS0"))
        };
        for entry in &self.system.boot.entries {
            if entry.kernel.is_none() || has(&entry.command_line) {
                continue;
            }
            match self.system.boot.kind {
                BootLoaderKind::Grub2 if !entry.place.path.ends_with(".conf") => {
                    add(&entry.place.path, entry.place.line);
                }
                // One key per line: the command line has its own.
                _ => {
                    let line = self.line_with_key(&entry.place.path, entry.place.line)?;
                    add(&entry.place.path, line);
                }
            }
        }
        for source in &self.system.boot.sources {
            if source.key == SOURCE && !has(&source.value) {
                add(&source.place.path, source.place.line);
            }
        }
        Ok(())
    }

    /// The first line from `from` on that begins with `options` or `append`, before the next entry.
    fn line_with_key(&self, path: &str, from: Option<u32>) -> Result<Option<u32>> {
        let text = self.files.read(path)?.unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let from = usize::try_from(from.unwrap_or(1)).unwrap_or(1).max(1);
        let found = text.lines().enumerate().skip(from - 1).find(|(_, line)| {
            let key = line.split_whitespace().next().unwrap_or_default();
            ["options", "append", "kernel"].contains(&key.to_ascii_lowercase().as_str())
        });
        Ok(found.and_then(|(at, _)| u32::try_from(at + 1).ok()))
    }
}
