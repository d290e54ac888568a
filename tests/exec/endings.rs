//! How programs end, and what is said of those that cannot be started.

use std::{os::unix::process::ExitStatusExt as _, process::Stdio};

use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::{
    overlay::{Running, Site, run, stderr},
    stage::{Stage, is_allowed},
    tools::{finish, have},
};

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_and_signals_are_those_of_the_program() {
    let Some(stage) = Stage::set() else { return };
    let ended = async |script: &str| finish(stage.exec(&[], &["sh", "-c", script])).await.status;
    assert_eq!(ended("exit 7").await.code(), Some(7));
    assert_eq!(ended("kill -TERM $$").await.signal(), Some(15));
    assert_eq!(ended("kill -SEGV $$").await.signal(), Some(11));
    let input = stage.exec(&[], &["sh", "-c", "echo \"$0 $1\"; pwd", "a b", "-v"]);
    let said = String::from_utf8(finish(input).await.stdout).unwrap();
    let here = std::env::current_dir().unwrap();
    assert_eq!(said, format!("a b -v\n{}\n", here.display()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_to_ronproxy_is_one_to_the_program() {
    let Some(stage) = Stage::set() else { return };
    let script = "trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done";
    let mut child = stage.exec(&[], &["sh", "-c", script]).spawn().unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(said.next_line().await.unwrap().as_deref(), Some("ready"));
    let pid = rustix::process::Pid::from_raw(child.id().unwrap().try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(child.wait().await.unwrap().code(), Some(9));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_cannot_be_run_has_the_code_of_a_shell() {
    let Some(stage) = Stage::set() else { return };
    for (program, code, words) in
        [("no-such-program", 127, "PATH"), ("/etc/passwd", 126, "chmod"), ("/", 126, "chmod")]
    {
        let output = finish(stage.exec(&[], &[program])).await;
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(program) && said.contains(words), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_inside_another_is_refused_with_a_reason() {
    let Some(stage) = Stage::set() else { return };
    let dir = stage.site.dir("leaf");
    let inner = [env!("CARGO_BIN_EXE_ronproxy"), "--dir", dir.to_str().unwrap(), "exec", "true"];
    let output = finish(stage.exec(&[], &inner)).await;
    assert_eq!(output.status.code(), Some(125));
    assert!(stderr(&output).contains("already"), "{output:?}");
}

#[test]
fn without_a_running_node_or_its_proxy_the_cure_is_said() {
    let site = Site::new();
    let dir = site.hub();
    let said = |arguments: &[&str]| {
        let output = run(&dir, arguments);
        assert!(!output.status.success(), "{arguments:?}");
        stderr(&output)
    };
    assert!(said(&["exec", "true"]).contains("ronproxy run"), "{}", said(&["exec", "true"]));
    assert!(said(&["exec", "--localhost", "0", "true"]).contains("--localhost"));
    assert!(said(&["exec", "--hint", "speed", "true"]).contains("--hint"));
    assert!(said(&["exec"]).contains("CMD"));
    let _hub = Running::start(&dir, &[]);
    assert!(said(&["exec", "--user", "eve", "true"]).contains("eve"));
}

#[test]
fn a_system_that_forbids_user_namespaces_is_told_how_to_allow_them() {
    if !have("unshare") || !have("setpriv") {
        return;
    }
    // In a namespace where none can be made, without the privileges that would do instead.
    let script = "echo 0 > /proc/sys/user/max_user_namespaces || exit 77
        exec setpriv --bounding-set=-all --inh-caps=-all \"$0\" exec --check";
    let mut forbidden = std::process::Command::new("unshare");
    forbidden.args(["--user", "--map-root-user", "sh", "-c", script]);
    let output = forbidden.arg(env!("CARGO_BIN_EXE_ronproxy")).output().unwrap();
    let said = stderr(&output);
    if output.status.code() != Some(125) {
        return println!("skipped: no such namespace can be made here: {said}");
    }
    assert!(said.contains("sysctl -w user.max_user_namespaces"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shell_is_one_whose_programs_are_inside() {
    let site = Site::new();
    let dir = site.hub();
    if !is_allowed(&dir) {
        return;
    }
    let _hub = Running::start(&dir, &[]);
    let mut shell = crate::tools::client(env!("CARGO_BIN_EXE_ronproxy"));
    shell.arg("--dir").arg(&dir).arg("shell").env("SHELL", "/bin/sh");
    shell.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut shell = shell.spawn().unwrap();
    let mut input = shell.stdin.take().unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut input, b"cat /proc/net/dev\nexit 3\n").await.unwrap();
    drop(input);
    let output = shell.wait_with_output().await.unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8(output.stdout).unwrap().contains("ronproxy0"));
}
