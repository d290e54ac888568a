//! `ronproxy signer`: started by `run` at the overlay's authority, never by people.

use clap::Args;

use super::{CliError, folder::Folder, log};
use crate::signer::{self, Program};

/// Answer the running node with the authority's key (started by `run`)
#[derive(Debug, Args)]
pub(super) struct Signer {
    /// Answer by itself, instead of keeping a worker
    #[arg(long)]
    worker: bool,
}

impl Signer {
    pub(super) async fn run(self, folder: &Folder, verbose: u8) -> Result<(), CliError> {
        let config = folder.config()?;
        log::start(verbose, &config.log)?;
        if self.worker {
            signer::work(&folder.dir, config.authority.certificate_lifetime).await?;
        } else {
            signer::keep(program(folder, verbose, &["signer", "--worker"])?).await?;
        }
        Ok(())
    }
}

/// This program with the same folder and verbosity, and these arguments.
pub(super) fn program(
    folder: &Folder,
    verbose: u8,
    arguments: &[&str],
) -> Result<Program, CliError> {
    let mut all: Vec<std::ffi::OsString> = Vec::new();
    if let Some(dir) = folder.named() {
        all.extend(["--dir".into(), dir.into()]);
    }
    all.extend((0..verbose).map(|_| "-v".into()));
    all.extend(arguments.iter().map(Into::into));
    Program::this(all).map_err(CliError::Runtime)
}
