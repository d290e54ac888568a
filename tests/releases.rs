//! Nodes of the last release and of this version work together, in each role.
//!
//! The last release is the newest tag `v*` before this commit. It is built from the tag, once;
//! `RON_LAST_RELEASE=PROGRAM` names a program that is there already. Without either the test says
//! why it skips.

#![cfg(unix)]
#![expect(unreachable_pub, clippy::unwrap_used, clippy::print_stderr, reason = "test helpers")]

#[path = "cli/overlay.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod overlay;
#[path = "cli/web.rs"]
mod web;

use std::{
    env, fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;

use overlay::{Running, Site, configure, free_udp, is_rid_of, wait_for};

const THIS: &str = env!("CARGO_BIN_EXE_ronproxy");

#[test]
fn nodes_of_the_last_release_and_of_this_one_work_together() {
    let last = match last_release() {
        Ok(program) => program,
        Err(why) => return eprintln!("skipped: {why}"),
    };
    for (hub, leaf) in [(last.as_path(), Path::new(THIS)), (Path::new(THIS), last.as_path())] {
        eprintln!("{} founds, {} joins", hub.display(), leaf.display());
        work_together(hub, leaf);
    }
}

/// `hub` is the authority and exit, `leaf` joins, fetches a page and is revoked.
fn work_together(hub: &Path, leaf: &Path) {
    let site = Site::new();
    let (hub_dir, leaf_dir) = (site.dir("hub"), site.dir("leaf"));
    must(hub, &hub_dir, &["init", "--name", "hub", "--exit", "--listen", &free_udp().to_string()]);
    configure(&hub_dir, "allow_private = []", "allow_private = [\"127.0.0.0/8\"]");
    let _hub = Running::start_as(on(hub, &hub_dir), &hub_dir, &[]);
    let invitation = must(hub, &hub_dir, &["invite", "--name", "leaf"]);
    join(leaf, &leaf_dir, &invitation);
    let running = Running::start_as(on(leaf, &leaf_dir), &leaf_dir, &[]);
    wait_for("the link", || {
        let links = must(leaf, &leaf_dir, &["links", "--json"]);
        serde_json::from_str::<Value>(&links).unwrap()[0]["up"] == true
    });
    assert_eq!(web::fetch(running.proxy(), web::serve()).unwrap(), web::PAGE);
    must(hub, &hub_dir, &["revoke", "leaf"]);
    wait_for("the revocation", || is_rid_of(&hub_dir, "leaf"));
}

/// The program of the last release, or why there is none.
fn last_release() -> Result<PathBuf, String> {
    if let Some(program) = env::var_os("RON_LAST_RELEASE") {
        return Ok(program.into());
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let git = |arguments: &[&str]| Command::new("git").arg("-C").arg(root).args(arguments).output();
    // Not a tag of this commit: that is this version.
    let tag = git(&["describe", "--tags", "--abbrev=0", "--match", "v*", "HEAD^"])
        .map_err(|error| format!("git, which knows the releases, does not run: {error}"))?;
    if !tag.status.success() {
        return Err(
            "this commit has no ancestor with a tag v*: it has no release before it".to_owned()
        );
    }
    let tag = String::from_utf8(tag.stdout).unwrap().trim().to_owned();
    let folder = root.join("target/releases").join(&tag);
    let source = folder.join("source");
    if !source.exists() {
        fs::create_dir_all(&folder).unwrap();
        let archive = git(&["archive", "--format=tar", &tag]).unwrap();
        assert!(archive.status.success(), "git archive {tag}: {}", overlay::stderr(&archive));
        let unpacked = folder.join("unpacking");
        tar::Archive::new(&archive.stdout[..]).unpack(&unpacked).unwrap();
        fs::rename(unpacked, &source).unwrap();
    }
    // Its own folder: in the common one it would replace the program that other tests run.
    let built = Command::new(env!("CARGO"))
        .args(["build", "--locked", "--quiet", "--bin", "ronproxy", "--target-dir"])
        .arg(folder.join("target"))
        .current_dir(&source)
        .output()
        .unwrap();
    assert!(built.status.success(), "the build of {tag}: {}", overlay::stderr(&built));
    Ok(folder.join("target/debug/ronproxy"))
}

/// `program` on `dir`.
fn on(program: &Path, dir: &Path) -> Command {
    let mut command = Command::new(program);
    command.arg("--dir").arg(dir).env_remove("RON_LOG").stdin(Stdio::null());
    command
}

fn must(program: &Path, dir: &Path, arguments: &[&str]) -> String {
    let output = on(program, dir).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", overlay::stderr(&output));
    String::from_utf8(output.stdout).unwrap()
}

fn join(program: &Path, dir: &Path, invitation: &str) {
    let mut child = on(program, dir)
        .args(["join", "-", "--listen", &free_udp().to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    writeln!(child.stdin.take().unwrap(), "{}", invitation.trim()).unwrap();
    assert!(child.wait().unwrap().success());
}
