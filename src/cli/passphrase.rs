//! Where a backup's passphrase comes from: the terminal, without echo, or a file.

use std::{
    fs::File,
    io::{self, IsTerminal as _, Read},
    path::Path,
};

use zeroize::Zeroizing;

use super::CliError;

/// The longest passphrase read, in bytes.
const MAX_LEN: u64 = 1024;

/// Reads a passphrase; `twice` asks for it again, where it is typed.
pub(super) fn read(file: Option<&Path>, twice: bool) -> Result<String, CliError> {
    match file {
        Some(path) if path == Path::new("-") => first_line(io::stdin().lock()).map_err(unreadable),
        Some(path) => File::open(path).and_then(first_line).map_err(unreadable),
        None => ask(twice),
    }
}

fn ask(twice: bool) -> Result<String, CliError> {
    if !io::stdin().is_terminal() {
        return Err(CliError::say(
            "there is no terminal to ask for the passphrase; name a file with --passphrase-file FILE, \
             or `-` for standard input",
        ));
    }
    let typed = rpassword::prompt_password("Passphrase: ").map_err(unreadable)?;
    if twice {
        let again = rpassword::prompt_password("Once more: ").map_err(unreadable)?;
        if *Zeroizing::new(again) != typed {
            return Err(CliError::say("the two passphrases differ; try again"));
        }
    }
    Ok(typed)
}

/// The first line: editors end a file with one.
fn first_line(from: impl Read) -> io::Result<String> {
    let mut text = Zeroizing::new(String::new());
    from.take(MAX_LEN).read_to_string(&mut text)?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

fn unreadable(error: io::Error) -> CliError {
    CliError::say(format!("the passphrase cannot be read: {error}; check --passphrase-file"))
}
