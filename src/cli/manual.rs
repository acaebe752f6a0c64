//! `fleetdrain man`: the manual pages, made of the commands' own help.

use std::{fs, io, path::Path};

use clap::{Command, CommandFactory};
use clap_mangen::Man;

use super::Cli;

/// Writes the page of every command to `dir`.
pub(super) fn write(dir: &Path) -> io::Result<()> {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    write_with_subcommands(&command, dir)
}

fn write_with_subcommands(command: &Command, dir: &Path) -> io::Result<()> {
    let shown = command.get_subcommands().filter(|command| !command.is_hide_set());
    shown.into_iter().try_for_each(|command| write_with_subcommands(command, dir))?;
    fs::write(dir.join(Man::new(command.clone()).get_filename()), page(command)?)
}

/// The page of one command.
pub(super) fn page(command: &Command) -> io::Result<Vec<u8>> {
    let mut page = Vec::new();
    let source = concat!("fleetdrain ", env!("CARGO_PKG_VERSION"));
    Man::new(command.clone()).source(source).render(&mut page)?;
    // A page has no date of its own, and what is left of an empty one is nothing: the source would stand in its place.
    let page = String::from_utf8_lossy(&page).replacen(" 1  \"", " 1 \"\" \"", 1);
    Ok(page.into_bytes())
}
