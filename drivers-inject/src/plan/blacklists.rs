//! Lines of `modprobe.d(5)` that keep the target's drivers from being loaded become comments, in the
//! guest and in the copies inside its initramfs images.

use rehost_block::Result;
use rehost_inspect::initramfs::Initramfs;

use super::text::{LineEdit, TextChanges, change_line};
use super::{Need, Planner};
use crate::initramfs::Override;

const FOLDER: &str = "/etc/modprobe.d";

/// Programs that an `install` line runs in place of loading anything.
const NOTHING: [&str; 2] = ["/bin/false", "/bin/true"];

impl Planner<'_> {
    /// Wishes for lines that name a driver of the target.
    pub(super) fn allow_drivers(&self, changes: &mut TextChanges) -> Result<()> {
        for path in self.settings()? {
            let content = self.files.read(&path)?.unwrap_or_default();
            for (line, module) in self.stopping_lines(&String::from_utf8_lossy(&content)) {
                let reason = format!(
                    "the guest is told not to load {module}, which its new disk or network needs"
                );
                changes.add(&path, line, LineEdit::Comment, (reason, Need::Boot));
            }
        }
        Ok(())
    }

    /// The same for the copies in `initramfs`, which have the names of the guest's own files.
    pub(super) fn allowed_inside(&self, initramfs: &Initramfs) -> Result<Vec<Override>> {
        let mut overrides = Vec::new();
        for path in self.settings()? {
            let inner = path.trim_start_matches('/');
            let Some(text) = initramfs.text(inner) else {
                continue;
            };
            let mut content = text.as_bytes().to_vec();
            for (line, _) in self.stopping_lines(&text) {
                change_line(&mut content, line, &[&LineEdit::Comment]);
            }
            if content != text.as_bytes() {
                overrides.push(Override {
                    path: inner.to_owned(),
                    content,
                });
            }
        }
        Ok(overrides)
    }

    fn settings(&self) -> Result<Vec<String>> {
        let mut names = self.files.names(FOLDER)?;
        names.retain(|name| name.ends_with(".conf"));
        Ok(names
            .into_iter()
            .map(|name| format!("{FOLDER}/{name}"))
            .collect())
    }

    /// Lines, from 1, that keep a driver from being loaded, with its name.
    fn stopping_lines(&self, text: &str) -> Vec<(u32, String)> {
        let mut drivers = self.target.modules(self.buses);
        drivers.extend(self.target.network);
        (1..)
            .zip(text.lines())
            .filter_map(|(number, line)| {
                let mut words = line.split_whitespace();
                let stops = match words.next()? {
                    "blacklist" => true,
                    "install" => NOTHING.iter().any(|end| line.trim_end().ends_with(end)),
                    _ => false,
                };
                let module = words.next()?.replace('-', "_");
                (stops && drivers.contains(&module.as_str())).then_some((number, module))
            })
            .collect()
    }
}
