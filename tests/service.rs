//! The systemd units, as `ronproxy service` writes them.

#![cfg(unix)]
#![expect(unreachable_pub, clippy::unwrap_used, clippy::print_stderr, reason = "test helpers")]

#[path = "cli/overlay.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod overlay;

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use overlay::{Site, free_udp, must, stderr};

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
