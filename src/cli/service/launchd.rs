//! The text of a launchd agent for macOS (launchd.plist(5)). PURE.

use std::path::Path;

use super::unit;
use crate::cli::CliError;

/// Stands in every agent that we write; others are not touched.
pub(super) const MARK: &str = "<!-- Written by `ronproxy service install`. -->";

/// The agent's label: `org.ronproxy`, with a part for each folder that is named.
pub(super) fn label(dir: Option<&Path>) -> String {
    let name = unit::name(unit::Manager::User, dir);
    let own = name.trim_end_matches(".service").trim_start_matches("ronproxy");
    format!("org.ronproxy{}", own.replacen('-', ".", 1))
}

/// The agent that runs `program` in the folder `dir`, or in the user's own folders.
///
/// # Errors
/// When a path cannot stand in it.
pub(super) fn text(program: &Path, dir: Option<&Path>) -> Result<String, CliError> {
    let mut arguments = vec![escaped(program)?];
    if let Some(dir) = dir {
        arguments.extend(["--dir".to_owned(), escaped(dir)?]);
    }
    arguments.push("run".to_owned());
    let arguments: String =
        arguments.iter().map(|word| format!("        <string>{word}</string>\n")).collect();
    Ok(format!(
        r#"<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
{MARK}
<plist version="1.0">
<dict>
    <key>Label</key>
    <string>{}</string>
    <key>ProgramArguments</key>
    <array>
{arguments}    </array>
    <key>RunAtLoad</key>
    <true/>
    <!-- Started again when it failed, and left alone when it was told to stop. -->
    <key>KeepAlive</key>
    <dict>
        <key>SuccessfulExit</key>
        <false/>
    </dict>
    <!-- Longer than the drain, so that flows may finish. -->
    <key>ExitTimeOut</key>
    <integer>30</integer>
    <key>Umask</key>
    <integer>63</integer>
    <key>SoftResourceLimits</key>
    <dict>
        <key>NumberOfFiles</key>
        <integer>32768</integer>
    </dict>
</dict>
</plist>
"#,
        label(dir)
    ))
}

/// A path as the text of an XML element.
fn escaped(path: &Path) -> Result<String, CliError> {
    let text = path.to_str().filter(|text| !text.chars().any(char::is_control));
    let text = text.ok_or_else(|| {
        CliError::say(format!("{path:?} cannot stand in an agent; use a path in plain text"))
    })?;
    Ok(text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_runs_the_program_in_its_folder() {
        let agent = text(Path::new("/opt/a&b/ronproxy"), Some(Path::new("/Users/a b"))).unwrap();
        let words: Vec<_> = agent
            .lines()
            .map(str::trim)
            .skip_while(|line| *line != "<array>")
            .filter_map(|line| line.strip_prefix("<string>")?.strip_suffix("</string>"))
            .collect();
        assert_eq!(words, ["/opt/a&amp;b/ronproxy", "--dir", "/Users/a b", "run"]);
        assert!(text(Path::new("/a\nb"), None).is_err());
    }

    #[test]
    fn each_folder_has_an_agent_of_its_own() {
        assert_eq!(label(None), "org.ronproxy");
        let [a, b] = ["/a/b", "/a-b"].map(|dir| label(Some(Path::new(dir))));
        assert!(a.starts_with("org.ronproxy.b-") && b.starts_with("org.ronproxy."), "{a} {b}");
        assert_ne!(a, b);
    }
}
