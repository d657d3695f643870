//! Runs a GRUB 2 configuration far enough to know its menu: variables, conditions, functions,
//! `search`, `load_env`, included files; entries are run one by one to see what they load.
//!
//! Left out on purpose, and reported when met: `regexp`, `eval` and `probe`. Submenus see all
//! variables here, exported or not (GRUB passes only exported ones; `grub-mkconfig` exports what
//! it uses).

use std::collections::BTreeMap;
use std::rc::Rc;

use super::script::{Command, CommandKind, Script, parse};
use super::test::holds;
use super::words::{Piece, Word};
use crate::model::Place;
use crate::text::Text;

/// Work allowed for one configuration, in commands plus bytes expanded. Ours: a menu of a hundred
/// kernels takes less than a tenth; `set a=$a$a` in a loop must end.
const FUEL: usize = 16 << 20;

/// Functions and included files within each other. Ours.
const DEEPEST: usize = 8;

/// What a configuration can see of the disks. Devices are GRUB's names (`hd0,msdos1`).
pub(super) trait World {
    /// The text file at `path` on `device`.
    fn text(&self, device: &str, path: &str) -> Option<Text>;
    /// The length of what is at `path` on `device`.
    fn size(&self, device: &str, path: &str) -> Option<u64>;
    /// Names in the folder at `path` on `device`.
    fn list(&self, device: &str, path: &str) -> Vec<String>;
    /// The device with this filesystem UUID, label or file.
    fn search(&self, by: SearchBy, value: &str) -> Option<String>;
}

/// What `search` looks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SearchBy {
    /// `--fs-uuid`.
    Uuid,
    /// `--label`.
    Label,
    /// `--file`.
    File,
}

/// A file by GRUB's device and the path on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DevicePath {
    pub(super) device: String,
    pub(super) path: String,
}

/// A menu entry and what it loads.
#[derive(Debug, Clone)]
pub(super) struct RawEntry {
    pub(super) title: String,
    pub(super) id: Option<String>,
    pub(super) index: String,
    pub(super) place: Place,
    pub(super) loads: Loads,
    pub(super) body: Script,
}

/// What an entry loads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Loads {
    pub(super) kernel: Option<DevicePath>,
    pub(super) initrds: Vec<DevicePath>,
    pub(super) command_line: String,
    pub(super) place: Option<Place>,
}

/// A configuration, run.
#[derive(Debug, Default)]
pub(super) struct Menu {
    pub(super) entries: Vec<RawEntry>,
    /// The value of `default` and where it was set.
    pub(super) default: Option<(String, Place)>,
    /// What could not be followed.
    pub(super) problems: Vec<(Place, String)>,
}

/// Runs the configuration `text`, which is in folder `prefix` of `device`.
pub(super) fn run(
    world: &dyn World,
    device: &str,
    prefix: &str,
    platform: &str,
    text: &Text,
) -> Menu {
    let mut machine = Machine {
        world,
        variables: BTreeMap::new(),
        functions: BTreeMap::new(),
        fuel: FUEL,
        depth: 0,
        file: text.path.clone(),
        submenu: Vec::new(),
        count: 0,
        loads: Loads::default(),
        menu: Menu::default(),
    };
    for feature in [
        "feature_timeout_style",
        "feature_menuentry_id",
        "feature_chainloader_bpb",
        "feature_ntldr",
        "feature_platform_search_hint",
        "feature_default_font_path",
        "feature_all_video_module",
        "feature_nativedisk_cmd",
        "feature_200_final",
    ] {
        machine.set(feature, "y");
    }
    machine.set("root", device);
    machine.set("prefix", &format!("({device}){prefix}"));
    machine.set("grub_platform", platform);
    machine.set("grub_cpu", if platform == "pc" { "i386" } else { "x86_64" });
    machine.run_text(text);

    let mut entries = std::mem::take(&mut machine.menu.entries);
    let variables = machine.variables.clone();
    let cost = variables
        .iter()
        .map(|(k, v)| k.len().saturating_add(v.len()))
        .sum();
    for entry in entries
        .iter_mut()
        .filter(|entry| entry.loads.kernel.is_none())
    {
        machine.burn(cost);
        machine.variables.clone_from(&variables);
        machine.loads = Loads::default();
        machine.file.clone_from(&entry.place.path);
        machine.run(&Rc::clone(&entry.body));
        entry.loads = std::mem::take(&mut machine.loads);
        machine.menu.entries.clear();
    }
    let mut menu = machine.menu;
    menu.entries = entries;
    menu
}

pub(super) struct Machine<'w> {
    pub(super) world: &'w dyn World,
    pub(super) variables: BTreeMap<String, String>,
    pub(super) functions: BTreeMap<String, Script>,
    pub(super) fuel: usize,
    pub(super) depth: usize,
    pub(super) file: String,
    pub(super) submenu: Vec<usize>,
    pub(super) count: usize,
    pub(super) loads: Loads,
    pub(super) menu: Menu,
}

impl Machine<'_> {
    pub(super) fn set(&mut self, name: &str, value: &str) {
        self.variables.insert(name.to_owned(), value.to_owned());
    }

    pub(super) fn get(&self, name: &str) -> &str {
        self.variables.get(name).map_or("", String::as_str)
    }

    /// Takes `cost` from what is left; false when nothing is.
    pub(super) fn burn(&mut self, cost: usize) -> bool {
        self.fuel = self.fuel.saturating_sub(cost.saturating_add(1));
        self.fuel > 0
    }

    pub(super) fn problem(&mut self, line: u32, what: impl Into<String>) {
        // A hundred of them tell no more than ten.
        if self.menu.problems.len() < 100 {
            let place = Place::line(&self.file, line);
            self.menu.problems.push((place, what.into()));
        }
    }

    fn run_text(&mut self, text: &Text) -> bool {
        if self.depth >= DEEPEST {
            self.problem(1, "files include each other too deep");
            return false;
        }
        if !self.burn(text.content.len()) {
            return false;
        }
        let (script, stop) = parse(&text.content);
        let outer = std::mem::replace(&mut self.file, text.path.clone());
        if let Some(stop) = stop {
            self.problem(stop.line, format!("syntax error: {}", stop.why));
        }
        self.depth = self.depth.saturating_add(1);
        let status = self.run(&script);
        self.depth = self.depth.saturating_sub(1);
        self.file = outer;
        status
    }

    /// Runs commands; gives whether the last succeeded. Recursion is bounded by the parser's
    /// nesting and by `DEEPEST`, work by `FUEL`.
    pub(super) fn run(&mut self, script: &Script) -> bool {
        let mut status = true;
        for command in script.iter() {
            if !self.burn(0) {
                return false;
            }
            status = self.step(command);
        }
        status
    }

    fn step(&mut self, command: &Command) -> bool {
        match &command.kind {
            CommandKind::Simple(words, block) => self.simple(command.line, words, block.as_ref()),
            CommandKind::If(arms, other) => {
                for (condition, body) in arms {
                    if self.run(condition) {
                        return self.run(body);
                    }
                }
                self.run(other)
            }
            CommandKind::For(words, body) => {
                let words = self.expand_all(words);
                let Some((name, rest)) = words.split_first() else {
                    return false;
                };
                let mut status = true;
                for value in rest.iter().skip_while(|word| *word == "in") {
                    self.set(name, value);
                    status = self.run(body);
                }
                status
            }
            CommandKind::While(condition, body) => {
                // Ends because every round burns fuel.
                while self.burn(0) && self.run(condition) {
                    self.run(body);
                }
                true
            }
            CommandKind::Until(condition, body) => {
                // Ends because every round burns fuel.
                while self.burn(0) && !self.run(condition) {
                    self.run(body);
                }
                true
            }
            CommandKind::Function(name, body) => {
                self.functions.insert(name.clone(), Rc::clone(body));
                true
            }
        }
    }

    fn simple(&mut self, line: u32, words: &[Word], block: Option<&Script>) -> bool {
        let words = self.expand_all(words);
        let Some((name, arguments)) = words.split_first() else {
            return true;
        };
        if let Some(body) = self.functions.get(name).map(Rc::clone) {
            return self.call(&body, arguments);
        }
        match name.as_str() {
            "set" => self.assign(line, arguments.first()),
            "unset" => {
                for name in arguments {
                    self.variables.remove(name);
                }
                true
            }
            "true" => true,
            "false" => false,
            "[" | "test" => {
                let arguments = arguments
                    .split_last()
                    .filter(|(last, _)| name == "[" && *last == "]")
                    .map_or(arguments, |(_, rest)| rest);
                holds(self, arguments)
            }
            "load_env" => self.load_env(arguments),
            "search" | "search.fs_uuid" | "search.file" | "search.fs_label" => {
                self.search(name, arguments)
            }
            "source" | "." | "configfile" => {
                let text = arguments.first().and_then(|path| self.open(path));
                text.is_some_and(|text| self.run_text(&text))
            }
            "menuentry" | "submenu" => self.entry(line, name, arguments, block),
            "linux" | "linux16" | "linuxefi" => self.linux(line, arguments),
            "initrd" | "initrd16" | "initrdefi" => {
                let paths = arguments.iter().map(|path| self.device_path(path));
                self.loads.initrds = paths.collect();
                true
            }
            "blscfg" => self.bls(line),
            "regexp" | "eval" | "probe" => {
                self.problem(line, format!("the command {name} is not followed"));
                false
            }
            _ if arguments.is_empty() && name.contains('=') => self.assign(line, Some(name)),
            // Everything else (insmod, echo, terminal_output, …) does not change the menu.
            _ => true,
        }
    }

    fn call(&mut self, body: &Script, arguments: &[String]) -> bool {
        if self.depth >= DEEPEST {
            return false;
        }
        let outer: Vec<(String, Option<String>)> = (1usize..10)
            .map(|number| number.to_string())
            .map(|name| {
                let old = self.variables.remove(&name);
                (name, old)
            })
            .collect();
        for ((name, _), value) in outer.iter().zip(arguments) {
            self.set(name, value);
        }
        self.depth = self.depth.saturating_add(1);
        let status = self.run(body);
        self.depth = self.depth.saturating_sub(1);
        for (name, old) in outer {
            match old {
                Some(value) => self.set(&name, &value),
                None => {
                    self.variables.remove(&name);
                }
            }
        }
        status
    }

    fn assign(&mut self, line: u32, word: Option<&String>) -> bool {
        let Some((name, value)) = word.and_then(|word| word.split_once('=')) else {
            return word.is_none();
        };
        if name == "default" {
            self.menu.default = Some((value.to_owned(), Place::line(&self.file, line)));
        }
        self.set(name, value);
        true
    }

    pub(super) fn expand_all(&mut self, words: &[Word]) -> Vec<String> {
        let mut all = Vec::with_capacity(words.len());
        for word in words {
            self.expand(word, &mut all);
        }
        all
    }

    /// Expands one word into none, one or (blanks in an unquoted variable) several.
    fn expand(&mut self, word: &Word, out: &mut Vec<String>) {
        let mut current = String::new();
        let mut exists = word.quoted;
        for piece in &word.pieces {
            match piece {
                Piece::Text(text) => {
                    current.push_str(text);
                    exists = true;
                }
                Piece::Variable { name, quoted } => {
                    let cost = self.get(name).len();
                    if !self.burn(cost) {
                        continue;
                    }
                    let value = self.get(name);
                    if *quoted {
                        current.push_str(value);
                        continue;
                    }
                    let mut parts = value.split_whitespace();
                    if value.starts_with(char::is_whitespace) && exists {
                        out.push(std::mem::take(&mut current));
                        exists = false;
                    }
                    if let Some(first) = parts.next() {
                        current.push_str(first);
                        exists = true;
                    }
                    for part in parts {
                        out.push(std::mem::replace(&mut current, part.to_owned()));
                    }
                    if value.ends_with(char::is_whitespace) && exists {
                        out.push(std::mem::take(&mut current));
                        exists = false;
                    }
                }
            }
        }
        if exists {
            out.push(current);
        }
    }

    /// `(device)/path`, or a path on `$root`.
    pub(super) fn device_path(&self, path: &str) -> DevicePath {
        let (device, path) = path
            .strip_prefix('(')
            .and_then(|rest| rest.split_once(')'))
            .unwrap_or_else(|| (self.get("root"), path));
        DevicePath {
            device: device.to_owned(),
            path: path.to_owned(),
        }
    }

    pub(super) fn open(&self, path: &str) -> Option<Text> {
        let at = self.device_path(path);
        self.world.text(&at.device, &at.path)
    }
}
