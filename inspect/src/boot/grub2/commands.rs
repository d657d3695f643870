//! GRUB's built-in commands that shape the menu: `menuentry`, `submenu`, `linux`, `search`,
//! `load_env`, `blscfg`.

use std::rc::Rc;

use super::run::{Loads, Machine, RawEntry, SearchBy};
use super::script::{CommandKind, Script, parse};
use crate::boot::bls;
use crate::model::Place;
use crate::text::compare_versions;

/// Menu entries kept. Ours.
const MOST_ENTRIES: usize = 1000;

impl Machine<'_> {
    pub(super) fn load_env(&mut self, arguments: &[String]) -> bool {
        let file = arguments
            .iter()
            .position(|word| word == "-f" || word == "--file")
            .and_then(|at| arguments.get(at.saturating_add(1)))
            .cloned()
            .or_else(|| {
                let long = |word: &String| word.strip_prefix("--file=").map(str::to_owned);
                arguments.iter().find_map(long)
            })
            .unwrap_or_else(|| format!("{}/grubenv", self.get("prefix")));
        let Some(text) = self.open(&file) else {
            return false;
        };
        for (_, line) in text.lines().filter(|(_, line)| !line.starts_with('#')) {
            if let Some((name, value)) = line.split_once('=') {
                if !self.burn(line.len()) {
                    return false;
                }
                self.set(name, &value.replace("\\\\", "\\"));
            }
        }
        true
    }

    pub(super) fn search(&mut self, command: &str, arguments: &[String]) -> bool {
        let mut by = match command {
            "search.fs_uuid" => Some(SearchBy::Uuid),
            "search.file" => Some(SearchBy::File),
            "search.fs_label" => Some(SearchBy::Label),
            _ => None,
        };
        let mut variable = "root".to_owned();
        let mut values: Vec<&str> = Vec::new();
        let mut words = arguments.iter();
        while let Some(word) = words.next() {
            match word.as_str() {
                "-u" | "--fs-uuid" => by = Some(SearchBy::Uuid),
                "-l" | "--label" | "--fs-label" => by = Some(SearchBy::Label),
                "-f" | "--file" => by = Some(SearchBy::File),
                "--hint" => {
                    words.next();
                }
                option if option.starts_with("--set=") => {
                    option
                        .split_once('=')
                        .map(|(_, v)| v)
                        .unwrap_or_default()
                        .clone_into(&mut variable);
                }
                option if option.starts_with('-') => {}
                value => values.push(value),
            }
        }
        // `search.fs_uuid UUID VARIABLE HINT…` names the variable by position.
        if let (true, Some(name)) = (command != "search", values.get(1)) {
            (*name).clone_into(&mut variable);
        }
        let found = by
            .zip(values.first())
            .and_then(|(by, value)| self.world.search(by, value));
        match found {
            Some(device) => {
                self.set(&variable, &device);
                true
            }
            None => false,
        }
    }

    pub(super) fn linux(&mut self, line: u32, arguments: &[String]) -> bool {
        let Some((kernel, rest)) = arguments.split_first() else {
            return false;
        };
        self.loads.kernel = Some(self.device_path(kernel));
        self.loads.command_line = command_line(rest);
        self.loads.place = Some(Place::line(&self.file, line));
        true
    }

    pub(super) fn entry(
        &mut self,
        line: u32,
        command: &str,
        arguments: &[String],
        block: Option<&Script>,
    ) -> bool {
        let mut title = None;
        let mut id = None;
        let mut words = arguments.iter();
        while let Some(word) = words.next() {
            match word.as_str() {
                "--id" => id = words.next().cloned(),
                "--class" | "--users" | "--hotkey" | "--source" => {
                    words.next();
                }
                option if option.starts_with("--id=") => {
                    id = option.split_once('=').map(|(_, id)| id.to_owned());
                }
                option if option.starts_with("--") => {}
                _ => {
                    title.get_or_insert(word);
                }
            }
        }
        let (Some(title), Some(block)) = (title, block) else {
            return false;
        };
        let number = self.count;
        self.count = self.count.saturating_add(1);
        if command == "submenu" {
            let variables = self.variables.clone();
            let cost = variables.values().map(String::len).sum();
            self.submenu.push(number);
            self.count = 0;
            if self.burn(cost) {
                self.run(block);
            }
            self.submenu.pop();
            self.count = number.saturating_add(1);
            self.variables = variables;
            return true;
        }
        self.add(RawEntry {
            title: title.clone(),
            id,
            index: self.index(number),
            place: Place::line(&self.file, line),
            loads: Loads::default(),
            body: Rc::clone(block),
        })
    }

    fn index(&self, number: usize) -> String {
        let mut path: Vec<String> = self.submenu.iter().map(usize::to_string).collect();
        path.push(number.to_string());
        path.join(">")
    }

    fn add(&mut self, entry: RawEntry) -> bool {
        let fits = self.menu.entries.len() < MOST_ENTRIES;
        if fits {
            self.menu.entries.push(entry);
        }
        fits
    }

    /// `blscfg`: the entries of the Boot Loader Specification in `/boot/loader/entries`, or
    /// `/loader/entries` when `$root` is the boot filesystem; the newest first.
    pub(super) fn bls(&mut self, line: u32) -> bool {
        let device = self.get("root").to_owned();
        let given = self.get("blsdir").to_owned();
        let folders = [given.as_str(), "/loader/entries", "/boot/loader/entries"];
        let found = folders
            .into_iter()
            .filter(|folder| !folder.is_empty())
            .map(|folder| (folder, self.world.list(&device, folder)))
            .find(|(_, names)| names.iter().any(|name| name.ends_with(".conf")));
        let Some((folder, mut names)) = found else {
            self.problem(line, "blscfg finds no entries");
            return false;
        };
        names.retain(|name| name.ends_with(".conf"));
        names.sort_by(|a, b| compare_versions(b, a));
        for name in names {
            let Some(text) = self.world.text(&device, &format!("{folder}/{name}")) else {
                continue;
            };
            if !self.burn(text.content.len()) {
                return false;
            }
            let entry = bls::parse(&text);
            let options = self.split(&entry.options.join(" "));
            let initrds = self.split(&entry.initrds.join(" "));
            let number = self.count;
            self.count = self.count.saturating_add(1);
            let raw = RawEntry {
                title: entry.title.clone().unwrap_or_else(|| name.clone()),
                id: Some(name.trim_end_matches(".conf").to_owned()),
                index: self.index(number),
                place: Place::file(&text.path),
                loads: Loads {
                    kernel: entry.linux.as_deref().map(|path| self.device_path(path)),
                    initrds: initrds.iter().map(|path| self.device_path(path)).collect(),
                    command_line: command_line(&options),
                    place: Some(text.place(entry.options_line)),
                },
                body: Script::default(),
            };
            if !self.add(raw) {
                return false;
            }
        }
        true
    }

    /// The words of a BLS value: GRUB expands them like words of a script.
    fn split(&mut self, value: &str) -> Vec<String> {
        let (script, _) = parse(&format!("x {value}"));
        let mut words = match script.first().map(|command| &command.kind) {
            Some(CommandKind::Simple(words, _)) => self.expand_all(words),
            _ => Vec::new(),
        };
        words.drain(..words.len().min(1));
        words
    }
}

/// Arguments as one command line, as GRUB passes it: words with blanks are quoted.
fn command_line(words: &[String]) -> String {
    let words: Vec<String> = words
        .iter()
        .map(|word| {
            if word.contains(char::is_whitespace) {
                format!("\"{}\"", word.replace('\\', "\\\\").replace('"', "\\\""))
            } else {
                word.clone()
            }
        })
        .collect();
    words.join(" ")
}
