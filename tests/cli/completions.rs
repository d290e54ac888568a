//! The completion script in a real bash.

use std::{path::Path, process::Command};

use crate::overlay::{Running, Site, json, wait_for};

/// What bash offers after these words, the last of which is being typed.
fn offered(dir: &Path, words: &[&str]) -> Vec<String> {
    let program = Path::new(env!("CARGO_BIN_EXE_ronproxy"));
    let script = r#"
        set -u; dir=$1; shift
        source <(ronproxy completions bash)
        COMP_WORDS=(ronproxy --dir "$dir" "$@"); COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 )); COMP_TYPE=9
        _clap_complete_ronproxy ronproxy "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}" || exit 1
        for word in "${COMPREPLY[@]}"; do echo "$word"; done"#;
    let path = std::env::var("PATH").unwrap();
    let path = format!("{}:{path}", program.parent().unwrap().display());
    let mut bash = Command::new("bash");
    bash.env("PATH", path).args(["-c", script, "bash"]).arg(dir).args(words);
    let output = bash.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words:?}: {said}");
    let offered = String::from_utf8(output.stdout).unwrap();
    offered.lines().map(|line| line.trim().to_owned()).collect()
}

/// The same without options, which are offered where no word has begun.
fn names(dir: &Path, words: &[&str]) -> Vec<String> {
    offered(dir, words).into_iter().filter(|word| !word.starts_with('-')).collect()
}

#[test]
fn bash_completes_commands_options_and_names_of_nodes() {
    let site = Site::new();
    let mut hub = Running::start(&site.hub(), &[]);
    let dir = site.join("leaf");
    let leaf = Running::start(&dir, &[]);
    wait_for("the link", || json(&dir, &["links"])[0]["up"] == true);
    assert_eq!(offered(&dir, &["sta"]), ["status"]);
    assert!(offered(&dir, &["why", "--"]).contains(&"--exit".to_owned()));
    for words in [&["ping", "h"][..], &["why", "a.test", "--exit", ""], &["routes", ""]] {
        assert_eq!(names(&dir, words), ["hub"], "{words:?}");
    }
    assert_eq!(names(&dir, &["use", ""]), ["hub", "auto"]);
    // The leaf is no exit, and the hub is no relay.
    assert_eq!(names(&site.dir("hub"), &["use", ""]), ["auto"]);
    assert_eq!(names(&site.dir("hub"), &["ping", ""]), ["leaf"]);
    drop(leaf);
    hub.crash();
    assert!(names(&site.dir("hub"), &["ping", ""]).is_empty(), "no node runs");
}
