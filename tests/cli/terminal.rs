//! Terminals that vanish under a program, and programs that are told to show no colour.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read},
    path::Path,
    process::{Child, Command, Stdio},
};

use crate::overlay::{Running, Site, run, wait_for};

/// A program on a terminal of 80×24, which `script` of util-linux holds.
struct Terminal {
    script: Child,
    output: BufReader<Box<dyn Read>>,
    /// The program's process.
    pid: u32,
}

impl Terminal {
    /// Runs the program with `arguments` there, after the shell commands `first`; `None`: there is no `script`.
    fn open(dir: &Path, first: &str, arguments: &str) -> Option<Self> {
        if Command::new("script").arg("--version").output().is_err() {
            eprintln!("skipped: there is no `script`");
            return None;
        }
        let program = env!("CARGO_BIN_EXE_ronproxy");
        let line = format!(
            "stty rows 24 cols 80; echo pid $$; {first} {program} --dir {} {arguments}",
            dir.display()
        );
        let mut script = Command::new("script")
            .args(["-qec", &line, "/dev/null"])
            .env_remove("NO_COLOR")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output: Box<dyn Read> = Box::new(script.stdout.take().unwrap());
        let mut output = BufReader::new(output);
        let mut said = String::new();
        output.read_line(&mut said).unwrap();
        let pid = said.trim().strip_prefix("pid ").unwrap().parse().unwrap();
        Some(Self { script, output, pid })
    }

    /// Reads until `mark` is shown.
    fn until(&mut self, mark: &str) {
        let (mut seen, mut byte) = (Vec::new(), [0]);
        while !seen.ends_with(mark.as_bytes()) {
            let read = self.output.read_exact(&mut byte);
            assert!(read.is_ok(), "{mark} is not in {}", String::from_utf8_lossy(&seen));
            seen.push(byte[0]);
        }
    }

    /// Takes the terminal away, and waits for the end of the program.
    fn vanish(mut self) {
        self.script.kill().unwrap();
        self.script.wait().unwrap();
        wait_for("the program's end", || !runs(self.pid));
    }
}

/// Whether a process runs. One that has ended and waits for its parent does not.
fn runs(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().any(|line| line.starts_with("State:") && !line.contains('Z'))
}

#[test]
fn programs_end_when_their_terminal_vanishes() {
    let site = Site::new();
    let hub = site.hub();
    let node = Running::start(&hub, &[]);
    let none = site.dir("none");
    let demo = "demo --listen 127.0.0.1:0";
    for (dir, arguments, mark) in [
        (&none, demo, "Events"),
        (&none, "demo --auto --listen 127.0.0.1:0", "Events"),
        (&hub, "top", "EVENTS"),
        (&hub, "status --watch", "version"),
    ] {
        // With and without the signal that tells of it, as `nohup` has it.
        let status = hub.join("ended");
        let told = format!("{arguments}; echo $? > {}", status.display());
        for (first, arguments) in [("exec", arguments), ("trap '' HUP;", &told)] {
            let Some(mut terminal) = Terminal::open(dir, first, arguments) else { return };
            terminal.until(mark);
            terminal.vanish();
        }
        let said = fs::read_to_string(&status).unwrap();
        // The next program has to write its own.
        fs::remove_file(status).unwrap();
        let status: u8 = said.trim().parse().unwrap();
        assert!(status < 128, "{arguments}: ended by a signal, {status}");
    }
    assert!(run(&hub, &["status"]).status.success(), "the node is unharmed");
    drop(node);
}

#[test]
fn the_log_on_a_terminal_has_colours_unless_no_color_is_set() {
    let site = Site::new();
    let hub = site.hub();
    let node = "run --proxy 127.0.0.1:0 --dashboard 127.0.0.1:0";
    for (first, coloured) in
        [("exec", true), ("export NO_COLOR=; exec", true), ("export NO_COLOR=1; exec", false)]
    {
        let Some(mut terminal) = Terminal::open(&hub, first, node) else { return };
        let mut line = String::new();
        terminal.output.read_line(&mut line).unwrap();
        assert_eq!(line.contains('\u{1b}'), coloured, "{first}: {line:?}");
        wait_for("the node's stop", || run(&hub, &["stop"]).status.success());
        terminal.vanish();
    }
}
