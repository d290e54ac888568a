//! `ronproxy backup` and `ronproxy restore`

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use clap::Args;
use tempfile::TempDir;

use super::{
    CliError,
    folder::Folder,
    output::{note, print, print_json},
    passphrase, units,
};
use crate::{
    config::Config,
    flow::Target,
    identity::{
        Actor, Archive, AuditLog, Deed, Manifest, NodeDir, Passphrase, StoreError, UnixTime, open,
        pack, seal, sync_parent, unpack, write_new,
    },
};

/// The largest file read: what `backup` writes is under 256 MiB.
const MAX_FILE: u64 = 257 << 20;

/// Write the overlay's authority and its node into one encrypted file
#[derive(Debug, Args)]
pub(super) struct Backup {
    /// The file to be written; it must not exist
    file: PathBuf,
    /// Read the passphrase from the first line of FILE, or of standard input with `-`
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// Print facts as JSON
    #[arg(long)]
    json: bool,
}

/// Restore the overlay's authority and its node from a file that `backup` wrote
#[derive(Debug, Args)]
pub(super) struct Restore {
    /// The file
    file: PathBuf,
    /// Read the passphrase from the first line of FILE, or of standard input with `-`
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// Print facts as JSON
    #[arg(long)]
    json: bool,
}

impl Backup {
    pub(super) fn run(self, folder: &Folder) -> Result<(), CliError> {
        folder.expect_authority()?;
        if self.file.exists() {
            return Err(exists(&self.file));
        }
        let passphrase = passphrase::read(self.passphrase_file.as_deref(), true)?;
        let passphrase = Passphrase::new(passphrase)?;
        let now = UnixTime::now();
        let (manifest, bytes) = pack(&folder.dir, now)?;
        let sealed = seal(&bytes, &passphrase)?;
        write_new(&self.file, &sealed).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => exists(&self.file),
            _ => failed(&self.file, &error),
        })?;
        let log = AuditLog::new(&folder.dir);
        log.record(Deed::Backup, &manifest.name, None, Actor::this_user(), now)?;
        if self.json {
            return print_json(&facts(&manifest, &self.file));
        }
        print(format_args!("{} is written ({}).", self.file.display(), size(&sealed)))?;
        note(
            "Keep it on another machine, and its passphrase elsewhere: both together own the overlay.",
        );
        Ok(())
    }
}

impl Restore {
    pub(super) fn run(self, folder: &Folder) -> Result<(), CliError> {
        let places = [folder.dir.config_folder(), folder.dir.state_folder()];
        if let Some(taken) = places.into_iter().find(|place| !is_free(place)) {
            return Err(StoreError::Exists(taken.to_owned()).into());
        }
        folder.check_depth()?;
        let sealed = read(&self.file)?;
        let passphrase = passphrase::read(self.passphrase_file.as_deref(), false)?;
        let archive = unpack(&open(&sealed, &Passphrase::to_open(passphrase))?)?;
        let now = UnixTime::now();
        place(&archive, &folder.dir, now)?;
        self.report(folder, &archive.manifest, now)
    }

    fn report(&self, folder: &Folder, manifest: &Manifest, now: UnixTime) -> Result<(), CliError> {
        let addresses = folder.config().map(|config| told(&config)).unwrap_or_default();
        let addresses: Vec<_> = addresses.iter().map(Target::to_string).collect();
        if self.json {
            let mut facts = facts(manifest, &self.file);
            facts["addresses"] = serde_json::json!(addresses);
            return print_json(&facts);
        }
        let age = units::span(now.as_secs().saturating_sub(manifest.time));
        let made = units::date(manifest.time);
        print(format_args!(
            "{} and the overlay's authority are restored as of {made} UTC, {age} ago.",
            manifest.name
        ))?;
        print(format_args!("  start it       {}", folder.command("run")))?;
        note(format_args!(
            "Members look for it at {}. At another address, change `listen` and `advertise` under \
             [node]: it dials the members, and they tell the others. A member that nobody can dial, and that \
             has no other, needs the new address as `authority` under [node].",
            addresses.join(" and ")
        ));
        note("Nodes that were revoked or joined after that moment: revoke or invite them again.");
        note("The old machine must not run this node any more.");
        Ok(())
    }
}

/// Writes the archive beside its place, checks it there, and moves it in.
fn place(archive: &Archive, dir: &NodeDir, now: UnixTime) -> Result<(), CliError> {
    let (config, state) = (dir.config_folder(), dir.state_folder());
    let apart = !state.starts_with(config);
    let staged = stage(config)?;
    let staged_state = if apart { Some(stage(state)?) } else { None };
    let beside = match &staged_state {
        Some(staged_state) => NodeDir::split(staged.path(), staged_state.path()),
        None => NodeDir::at(staged.path()),
    };
    archive.write(&beside)?;
    let name = &archive.manifest.name;
    AuditLog::new(&beside).record(Deed::Restore, name, None, Actor::this_user(), now)?;
    // The configuration's folder comes last: with its key the node is there.
    if let Some(staged_state) = staged_state {
        move_in(&staged_state, state)?;
    }
    move_in(&staged, config)
}

/// A private folder beside `place`.
fn stage(place: &Path) -> Result<TempDir, CliError> {
    let parent = place.parent().unwrap_or(Path::new("/"));
    let made = fs::create_dir_all(parent)
        .and_then(|()| tempfile::Builder::new().prefix(".ronproxy-restore-").tempdir_in(parent));
    made.map_err(|error| failed(parent, &error))
}

/// Gives the staged folder its name, in one step. An empty folder may be there.
fn move_in(staged: &TempDir, place: &Path) -> Result<(), CliError> {
    let moved = fs::rename(staged.path(), place).and_then(|()| sync_parent(place));
    moved.map_err(|error| failed(place, &error))
}

/// Whether nothing is at `place`, or an empty folder.
fn is_free(place: &Path) -> bool {
    match fs::read_dir(place) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

fn read(file: &Path) -> Result<Vec<u8>, CliError> {
    use io::Read as _;
    let mut bytes = Vec::new();
    let read = fs::File::open(file).and_then(|open| open.take(MAX_FILE).read_to_end(&mut bytes));
    read.map_err(|error| {
        CliError::say(format!("cannot read {}: {error}; check the path", file.display()))
    })?;
    Ok(bytes)
}

/// Where members dial the node.
fn told(config: &Config) -> Vec<Target> {
    let node = &config.node;
    if node.advertise.is_empty() { vec![node.listen.into()] } else { node.advertise.clone() }
}

fn facts(manifest: &Manifest, file: &Path) -> serde_json::Value {
    serde_json::json!({
        "file": file,
        "name": manifest.name,
        "authority": manifest.authority.to_string(),
        "time": manifest.time,
        "version": manifest.version,
    })
}

fn size(bytes: &[u8]) -> String {
    units::bytes(bytes.len() as u64)
}

fn exists(file: &Path) -> CliError {
    CliError::say(format!("{} exists and is not overwritten; name another file", file.display()))
}

fn failed(path: &Path, error: &io::Error) -> CliError {
    CliError::say(format!(
        "cannot write {}: {error}; check its owner and free space",
        path.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::NodeFile;

    #[test]
    fn only_an_empty_place_is_free() {
        let folder = tempfile::tempdir().unwrap();
        assert!(is_free(folder.path()) && is_free(&folder.path().join("new")));
        fs::write(folder.path().join(NodeFile::Config.name()), "").unwrap();
        assert!(!is_free(folder.path()) && !is_free(&folder.path().join("config.toml")));
    }
}
