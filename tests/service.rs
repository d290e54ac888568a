//! The systemd units, as `ronproxy service` writes them.

#![cfg(unix)]
#![expect(unreachable_pub, clippy::unwrap_used, clippy::print_stderr, reason = "test helpers")]
#![expect(clippy::print_stdout, reason = "a skipped test says so")]

#[path = "cli/overlay.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod overlay;

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use overlay::{Site, free_udp, must, stderr};

/// The least exposed that a unit with a network can be is about 1; 2.5 is "OK" for systemd.
const MOST_EXPOSED_SYSTEM: f64 = 2.5;
/// A user's manager may not unmount, hide or forbid what the machine's may: 6.3 with systemd 252.
const MOST_EXPOSED_USER: f64 = 6.6;

fn service(dir: &Path, home: &Path, arguments: &[&str]) -> Output {
    let mut command = overlay::ronproxy(dir);
    command.arg("service").args(arguments).env("XDG_CONFIG_HOME", home).output().unwrap()
}

fn units(home: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(home.join("systemd/user")).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn a_unit_is_written_and_removed_without_calling_systemctl() {
    let site = Site::new();
    let (hub, home) = (site.hub(), site.dir("home"));
    assert!(service(&hub, &home, &["install"]).status.success());
    let unit = units(&home).pop().unwrap();
    let text = std::fs::read_to_string(&unit).unwrap();
    assert!(text.contains(&format!("--dir \"{}\" run", hub.display())), "{text}");
    assert!(service(&hub, &home, &["uninstall"]).status.success());
    assert!(!unit.exists());
    std::fs::write(&unit, "[Unit]\n").unwrap();
    assert!(!service(&hub, &home, &["install"]).status.success());
    assert_eq!(std::fs::read_to_string(&unit).unwrap(), "[Unit]\n");
}

#[test]
fn the_service_of_a_second_folder_leaves_the_first_alone() {
    let site = Site::new();
    let (first, home) = (site.hub(), site.dir("home"));
    let second = site.dir("nested").join("hub");
    let listen = free_udp().to_string();
    must(&second, &["init", "--name", "other", "--listen", &listen]);
    for dir in [&first, &second] {
        assert!(service(dir, &home, &["install"]).status.success());
    }
    let texts: Vec<_> = units(&home).iter().map(|u| std::fs::read_to_string(u).unwrap()).collect();
    assert_eq!(texts.len(), 2);
    for dir in [&first, &second] {
        let start = format!("--dir \"{}\" run", dir.display());
        assert_eq!(texts.iter().filter(|text| text.contains(&start)).count(), 1, "{start}");
    }
    assert!(service(&first, &home, &["uninstall"]).status.success());
    let left = std::fs::read_to_string(units(&home).pop().unwrap()).unwrap();
    assert!(left.contains(&second.display().to_string()), "{left}");
}

#[test]
fn a_system_service_outside_var_lib_is_refused_with_what_to_do() {
    let site = Site::new();
    let refused = service(&site.hub(), &site.dir("home"), &["install", "--system"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("--dir /var/lib/ronproxy"), "{}", stderr(&refused));
}

#[test]
fn systemd_finds_the_units_little_exposed() {
    let site = Site::new();
    let system = (Path::new("/var/lib/ronproxy"), &["show", "--system"][..], MOST_EXPOSED_SYSTEM);
    let user = (&*site.dir("node"), &["show"][..], MOST_EXPOSED_USER);
    for (dir, arguments, most) in [system, user] {
        let shown = service(dir, &site.dir("home"), arguments);
        assert!(shown.status.success(), "{}", stderr(&shown));
        let unit = site.dir("ronproxy.service");
        std::fs::write(&unit, &shown.stdout).unwrap();
        let Some(score) = exposure(&unit) else { return };
        println!("{arguments:?}: exposure {score} of at most {most}");
        assert!(score < most, "{score}");
    }
}

/// What `systemd-analyze security` says of a unit's file; `None` where it cannot be asked.
fn exposure(unit: &Path) -> Option<f64> {
    let mut command = Command::new("systemd-analyze");
    let asked = command.args(["security", "--offline=true", "--no-pager"]).arg(unit).output();
    let Ok(output) = asked else {
        println!("skipped: no systemd-analyze here");
        return None;
    };
    let text = String::from_utf8_lossy(&output.stdout);
    let score = text.lines().find_map(|line| {
        let (_, after) = line.split_once("Overall exposure level for ")?;
        after.split_whitespace().nth(1)?.parse().ok()
    });
    if score.is_none() {
        let said = stderr(&output);
        assert!(said.contains("--offline") || said.contains("unrecognized option"), "{text}{said}");
        println!("skipped: this systemd-analyze cannot judge a file (before version 250): {said}");
    }
    score
}

#[test]
fn an_agent_of_launchd_is_shown_anywhere_and_installed_on_macos_only() {
    let site = Site::new();
    let (hub, home) = (site.hub(), site.dir("home"));
    let shown = service(&hub, &home, &["show", "--launchd"]);
    let text = String::from_utf8(shown.stdout).unwrap();
    assert!(text.contains(&format!("<string>{}</string>", hub.display())), "{text}");
    assert!(text.contains("<string>org.ronproxy.hub-"), "{text}");
    if cfg!(target_os = "linux") {
        let refused = service(&hub, &home, &["install", "--launchd"]);
        assert!(stderr(&refused).contains("leave --launchd out"), "{}", stderr(&refused));
    }
    let reader =
        "import plistlib, sys; print(plistlib.loads(sys.stdin.buffer.read())['ExitTimeOut'])";
    let mut python = Command::new("python3");
    python.args(["-c", reader]).stdin(std::process::Stdio::piped());
    let Ok(mut python) = python.stdout(std::process::Stdio::piped()).spawn() else {
        return println!("skipped reading it: python3 not found");
    };
    std::io::Write::write_all(&mut python.stdin.take().unwrap(), text.as_bytes()).unwrap();
    assert_eq!(python.wait_with_output().unwrap().stdout, b"30\n");
}
