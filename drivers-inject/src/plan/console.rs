//! A serial console in the guest, only when asked for: the kernel's messages, and a login. For good, or in
//! a copy that is booted to be watched.

use rehost_block::Result;
use rehost_inspect::model::{BootEntry, BootLoaderKind, Init, Place, Severity};

use super::text::{LineEdit, TextChanges};
use super::{Change, Edit, Need, Note, Planner, SerialConsole};

/// The last one is `/dev/console`; systemd starts a login on it by itself.
const WORDS: &str = "console=tty0 console=ttyS0,115200";

/// Where `grub-mkconfig` takes the command line from.
const SOURCE: &str = "GRUB_CMDLINE_LINUX";

/// Where `kernel-install` does, for entries in files and for unified images.
const KERNEL_INSTALL: &str = "/etc/kernel/cmdline";

const REASON: &str = "a serial console was asked for";

const INITTAB: &str = "/etc/inittab";
const SECURETTY: &str = "/etc/securetty";

/// Upstart's job.
const JOB: &str = "/etc/init/ttyS0.conf";

impl Planner<'_> {
    /// Wishes for every boot entry and what entries are generated from.
    pub(super) fn add_console(&mut self, changes: &mut TextChanges) -> Result<()> {
        let (words, watched) = match self.options.serial_console {
            SerialConsole::Leave => return Ok(()),
            SerialConsole::Add => (WORDS, false),
            SerialConsole::Watch(words) => (words, true),
        };
        self.add_login(changes)?;
        let copies = self.copies_of_menu()?;
        let append = |words: &str| LineEdit::Append {
            words: words.to_owned(),
        };
        let mut add = |path: &str, line: Option<u32>, edit: LineEdit| {
            let config = self.system.boot.config.as_deref();
            let copies = copies.iter().filter(|_| config == Some(path));
            for path in copies.map(String::as_str).chain([path]) {
                if let Some(line) = line {
                    let because = (REASON.to_owned(), Need::Extra);
                    changes.add(path, line, edit.clone(), because);
                }
            }
        };
        // What is watched is also told how much to say.
        let has = |text: &str| !watched && has_console(text);
        for entry in &self.system.boot.entries {
            if entry.kernel.is_none() || has(&entry.command_line) {
                continue;
            }
            add(&entry.place.path, self.line_of(entry)?, append(words));
        }
        for source in &self.system.boot.sources {
            if source.key == SOURCE && !watched && !has(&source.value) {
                let words = words.to_owned();
                let edit = LineEdit::AppendToValue { words };
                add(&source.place.path, source.place.line, edit);
            }
        }
        if watched {
            // Also one that is no entry: the copy that firmware looks for.
            for image in &self.system.boot.unified {
                add(&image.path, Some(1), append(words));
            }
            return Ok(());
        }
        let text = self.files.read(KERNEL_INSTALL)?.unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let counts = |line: &str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
        let last = text
            .lines()
            .zip(1..)
            .filter(|(line, _)| counts(line))
            .last();
        if !has(&text) {
            let line = last.map(|(_, number)| number);
            add(KERNEL_INSTALL, line, append(words));
        }
        Ok(())
    }

    /// Other files on the EFI system partition that hold the very menu that was read: GRUB of the Red Hat
    /// family reads the one beside itself, and may have been copied with it to where firmware looks.
    fn copies_of_menu(&self) -> Result<Vec<String>> {
        let boot = &self.system.boot;
        let (Some(config), Some(esp)) = (&boot.config, &boot.esp) else {
            return Ok(Vec::new());
        };
        let menu = self.files.read(config)?;
        let mut copies = Vec::new();
        for folder in self.files.names(&format!("{}/EFI", esp.path))? {
            let path = format!("{}/EFI/{folder}/grub.cfg", esp.path);
            if path != *config && menu.is_some() && self.files.read(&path)? == menu {
                copies.push(path);
            }
        }
        Ok(copies)
    }

    /// Names the entries that none of `edits` gives a serial console to.
    pub(super) fn note_silent(&mut self, edits: &[Edit]) -> Result<()> {
        let boot = &self.system.boot;
        for entry in &boot.entries {
            let changed = match self
                .edit_of(&entry.place.path, edits)?
                .map(|edit| &edit.change)
            {
                Some(Change::Text { lines }) => {
                    let line = self.line_of(entry)?;
                    lines.iter().any(|changed| Some(changed.line) == line)
                }
                Some(Change::Initramfs { command_line, .. }) => command_line.is_some(),
                Some(_) => true,
                None => false,
            };
            if entry.kernel.is_none() || changed || has_console(&entry.command_line) {
                continue;
            }
            let inside = boot.unified.iter().any(|one| one.path == entry.place.path);
            let why = if inside {
                "its command line is inside a unified kernel image that must stay as it is"
            } else {
                "its command line is not where one is expected"
            };
            self.notes.push(Note::new(
                Severity::Warning,
                "console-not-added",
                format!(
                    "the boot entry \"{}\" gets no serial console: {why}",
                    entry.title
                ),
                vec![entry.place.clone()],
            ));
        }
        Ok(())
    }

    /// The line that has the command line of `entry`.
    fn line_of(&self, entry: &BootEntry) -> Result<Option<u32>> {
        let (boot, place) = (&self.system.boot, &entry.place);
        if boot.unified.iter().any(|image| image.path == place.path) {
            return Ok(Some(1));
        }
        match boot.kind {
            BootLoaderKind::Grub2 if !place.path.ends_with(".conf") => Ok(place.line),
            // One key per line: the command line has its own.
            _ => self.line_with_key(&place.path, place.line),
        }
    }

    /// systemd starts a login on every console by itself; the others have to be told.
    fn add_login(&self, changes: &mut TextChanges) -> Result<()> {
        let text = |path: &str| -> Result<Option<String>> {
            let content = self.files.read(path)?;
            Ok(content.map(|content| String::from_utf8_lossy(&content).into_owned()))
        };
        let line = match self.system.init {
            Init::Sysv if self.files.file("/sbin/getty")?.is_some() => {
                "T0:2345:respawn:/sbin/getty -L 115200 ttyS0 vt102"
            }
            Init::Sysv => "S0:2345:respawn:/sbin/agetty ttyS0 115200 vt102",
            Init::Openrc | Init::Busybox => "ttyS0::respawn:/sbin/getty -L 115200 ttyS0 vt100",
            Init::Systemd | Init::Upstart | Init::Unknown => "",
        };
        for (path, line) in [(INITTAB, line), (SECURETTY, "ttyS0")] {
            let Some(text) = text(path)?.filter(|text| !line.is_empty() && !text.is_empty()) else {
                continue;
            };
            let mut lines = text.lines();
            // The console is that line by then; two logins on it would take turns.
            let logs_in = |line: &str| {
                let mut words = line.split_whitespace();
                line.contains("ttyS0") || line.contains("getty") && words.any(|w| w == "console")
            };
            let has = lines.any(|line| !line.trim_start().starts_with('#') && logs_in(line));
            if let (false, Ok(last)) = (has, u32::try_from(text.lines().count())) {
                let text = line.to_owned();
                let because = (REASON.to_owned(), Need::Extra);
                changes.add(path, last, LineEdit::NewLine { text }, because);
            }
        }
        Ok(())
    }

    /// Upstart's job for the login.
    pub(super) fn write_gettys(&mut self) -> Result<Option<Edit>> {
        let wanted = self.options.serial_console != SerialConsole::Leave
            && self.system.init == Init::Upstart
            && self.files.kind(JOB)?.is_none();
        if !wanted {
            return Ok(None);
        }
        let content = "# ttyS0 - getty\nstart on stopped rc RUNLEVEL=[2345]\n\
                       stop on runlevel [!2345]\nrespawn\n\
                       exec /sbin/getty -L 115200 ttyS0 vt102\n";
        let because = (REASON.to_owned(), vec![Place::file("/etc/init")]);
        let change = Change::Create { mode: 0o644 };
        let content = content.as_bytes().to_vec();
        Ok(Some(Edit::of_new(
            JOB,
            self.place_of(JOB)?,
            content,
            change,
            because,
        )))
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

/// Whether a kernel with this command line talks on the first serial port.
fn has_console(command_line: &str) -> bool {
    let mut words = command_line.split_whitespace();
    words.any(|word| word.starts_with("console=ttyS0"))
}
