//! The lines of `ronproxy env` in real shells.

use std::{collections::BTreeMap, io::ErrorKind, path::Path, process::Command};

use crate::overlay::{Site, configure, must, stderr};

/// How a shell of this language evaluates the lines that `ronproxy env` prints with the options OPTIONS.
const SH: &str = r#"eval "$("$RON" --dir "$DIR" env OPTIONS)""#;
const FISH: &str = "$RON --dir $DIR env --shell fish OPTIONS | source";
const CSH: &str = "eval `$RON --dir $DIR env --shell csh OPTIONS`";

const SHELLS: [(&str, &str); 6] =
    [("sh", SH), ("bash", SH), ("dash", SH), ("zsh", SH), ("fish", FISH), ("tcsh", CSH)];

/// What a user has set, with all characters that mean something in a shell.
const OWN: [(&str, &str); 4] = [
    ("HTTPS_PROXY", r#"http://ann:it's a\b\\!$HOME%20&*"`~#;(=@corp:3128"#),
    ("http_proxy", ""),
    ("NO_PROXY", ".corp, localhost"),
    ("no_proxy", ".lab,.corp"),
];

/// The variables of programs about proxies.
type Variables = BTreeMap<String, String>;

/// What programs of a shell get after these lots of lines; `None`: there is no such shell.
fn after(dir: &Path, (shell, evaluate): (&str, &str), options: &[&str]) -> Option<Variables> {
    let lines = options.iter().map(|options| evaluate.replace("OPTIONS", options) + "\n");
    let script = lines.collect::<String>() + "env";
    let mut command = Command::new(shell);
    command.args(["-c", &script]).env_clear().env("HOME", dir).envs(OWN);
    command.env("PATH", std::env::var_os("PATH").unwrap());
    command.env("RON", env!("CARGO_BIN_EXE_ronproxy")).env("DIR", dir);
    let output = match command.output() {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            eprintln!("skipped: no {shell}");
            return None;
        }
        output => output.unwrap(),
    };
    assert!(output.status.success(), "{shell}: {}", stderr(&output));
    let said = String::from_utf8(output.stdout).unwrap();
    let all = said.lines().filter_map(|line| line.split_once('='));
    let all = all.filter(|(name, _)| {
        let name = name.to_lowercase();
        name.ends_with("_proxy") || name.starts_with("ronproxy")
    });
    Some(all.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
}

#[test]
fn shells_get_the_proxy_and_have_their_own_back_afterwards() {
    let site = Site::new();
    let dir = site.dir("node");
    must(&dir, &["init", "--name", "node"]);
    configure(&dir, "127.0.0.1:1080", "127.0.0.1:1093");
    let own: Variables =
        OWN.map(|(name, value)| (name.to_owned(), value.to_owned())).into_iter().collect();
    for shell in SHELLS {
        for times in [1, 2] {
            let Some(set) = after(&dir, shell, &[""].repeat(times)) else { break };
            for name in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"] {
                assert_eq!(set[name], "http://127.0.0.1:1093", "{shell:?} {name}");
            }
            for name in ["NO_PROXY", "no_proxy"] {
                let all = ".corp,localhost,.lab,127.0.0.1,127.0.0.0/8,::1,.local";
                assert_eq!(set[name], all, "{shell:?} {name}");
            }
            assert_eq!(set["all_proxy"], "socks5h://127.0.0.1:1093", "{shell:?}");
            let options = [&[""].repeat(times)[..], &["--unset"]].concat();
            assert_eq!(after(&dir, shell, &options).unwrap(), own, "{shell:?}");
        }
        // Nothing of ours is there.
        if let Some(untouched) = after(&dir, shell, &["--unset"]) {
            assert_eq!(untouched, own, "{shell:?}");
        }
    }
}
