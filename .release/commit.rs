//! Build script: tells the compiler what `ronproxy --version` says. A release build names its commit.

#![expect(clippy::print_stdout, reason = "how a build script speaks to Cargo")]

use std::{env, path::Path, process::Command};

fn main() {
    println!("cargo:rerun-if-changed=.release/commit.rs");
    println!("cargo:rerun-if-env-changed=RONPROXY_COMMIT");
    let named = env::var("RONPROXY_COMMIT").ok().filter(|commit| !commit.is_empty());
    // Not in debug builds: each commit would make all of them anew.
    let released = env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let commit = named.or_else(|| released.then(of_checkout).flatten());
    let version = env::var("CARGO_PKG_VERSION").unwrap_or_default();
    match commit {
        Some(commit) => println!("cargo:rustc-env=RONPROXY_VERSION={version} ({commit})"),
        // A debug build, or an unpacked archive of the source.
        None => println!("cargo:rustc-env=RONPROXY_VERSION={version}"),
    }
}

/// The commit of the checkout that is built. None where this folder is in somebody else's repository,
/// or git is missing.
fn of_checkout() -> Option<String> {
    let top = git(&["rev-parse", "--show-toplevel"])?;
    let here = env::var("CARGO_MANIFEST_DIR").ok()?;
    if Path::new(&top).canonicalize().ok()? != Path::new(&here).canonicalize().ok()? {
        return None;
    }
    let log = git(&["rev-parse", "--git-path", "logs/HEAD"])?;
    if Path::new(&log).exists() {
        println!("cargo:rerun-if-changed={log}");
    }
    git(&["rev-parse", "--short=12", "HEAD"])
}

/// What git says, if it runs and succeeds.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
