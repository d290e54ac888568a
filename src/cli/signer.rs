//! `ronproxy signer`: started by `run` at the overlay's authority, never by people.

use clap::Args;

use super::{
    CliError,
    confine::{Confinement, confine_signer},
    folder::Folder,
    log, wait,
};
use crate::signer::{self, Clerk, Program, ServeError};

/// Answer the running node with the authority's key (started by `run`)
#[derive(Debug, Args)]
pub(super) struct Signer {
    /// Answer by itself, instead of keeping a worker
    #[arg(long)]
    worker: bool,
}

impl Signer {
    pub(super) fn run(self, folder: &Folder, verbose: u8) -> Result<(), CliError> {
        let config = folder.config()?;
        log::start(verbose, &config.log)?;
        signer::hide_memory()?;
        if !self.worker {
            let worker = program(folder, verbose, &["signer", "--worker"])?;
            let spare = program(folder, verbose, &["signer"])?;
            return wait(async { Ok(signer::keep(worker, spare).await?) });
        }
        let lifetime = config.authority.certificate_lifetime;
        let clerk = Clerk::open(&folder.dir, lifetime).map_err(ServeError::from)?;
        let clerk = clerk.with_invitations_from_dashboard(config.authority.invite_from_dashboard);
        // Nothing of a peer has been read, and there are no threads, of which each inherits it.
        match confine_signer(folder, &config) {
            Confinement::Failed(error) => tracing::warn!(error, "the signer is not confined"),
            known => tracing::debug!(enforced = %known, "confinement of the signer"),
        }
        wait(async { Ok(signer::work(clerk).await?) })
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
