//! Man pages, shell completions and the Markdown reference, all from the one table in `args`.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use clap::CommandFactory;
use clap_complete::Shell;

use super::{Answer, Arguments, output};

/// Prints the completion script of `shell`.
pub(super) fn completions(shell: Shell) -> Result<Answer> {
    // Not to standard output at once: the generator panics when it cannot write.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "rehost", &mut script);
    output::raw(&script)?;
    Ok(Answer::Done)
}

/// Writes `rehost.1`, `rehost-convert.1`, … into `folder`.
pub(super) fn man(folder: &Path) -> Result<Answer> {
    clap_mangen::generate_to(Arguments::command(), folder)
        .with_context(|| format!("cannot write man pages to {}", folder.display()))?;
    Ok(Answer::Done)
}

/// Prints every command's help as one Markdown page.
pub(super) fn markdown() -> Result<Answer> {
    let mut page = String::from(
        "# Commands\n\nWritten by `scripts/generate` from the program's own help; change that.\n",
    );
    // A fixed width, or the page would depend on the terminal it is made on.
    let mut root = Arguments::command().term_width(100);
    root.build();
    section(
        &mut page,
        "rehost",
        &root.clone().render_long_help().to_string(),
    );
    for command in root
        .get_subcommands_mut()
        .filter(|command| !command.is_hide_set())
    {
        let name = format!("rehost {}", command.get_name());
        let help = command
            .clone()
            .term_width(100)
            .render_long_help()
            .to_string();
        section(&mut page, &name, &help);
    }
    output::raw(page.as_bytes())?;
    Ok(Answer::Done)
}

fn section(page: &mut String, name: &str, help: &str) {
    let lines: Vec<&str> = help.trim_end().lines().map(str::trim_end).collect();
    // Writing to a string cannot fail.
    let _ = write!(page, "\n## {name}\n\n```text\n{}\n```\n", lines.join("\n"));
}
