//! The documents and the program agree: commands, options, JSON fields, metrics, reasons, links and names of tests.

#![cfg(unix)]
#![expect(unreachable_pub, clippy::unwrap_used, clippy::print_stderr, reason = "test helpers")]

#[path = "cli/openapi.rs"]
mod openapi;
#[path = "cli/overlay.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod overlay;
#[path = "cli/web.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod web;

use std::{
    collections::BTreeSet,
    fs,
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
};

use clap::CommandFactory as _;
use serde_json::Value;

use overlay::{Site, json, socket, wait_for};

/// Documents outside the book whose links are checked too.
const OTHERS: [&str; 4] = ["README.md", "SECURITY.md", "CHANGELOG.md", "CONTRIBUTING.md"];

#[test]
fn the_page_of_commands_names_every_command_and_option() {
    let page = read("docs/commands.md");
    let mut program = ronproxy::internals::cli::Cli::command();
    program.build();
    check_command(&program, "ronproxy", &page);
}

/// The section of the command, and those of its subcommands.
fn check_command(command: &clap::Command, path: &str, page: &str) {
    let heading = format!("## `{path}`\n");
    let from = page.find(&heading);
    let from = from.unwrap_or_else(|| panic!("docs/commands.md has no section `{path}`"));
    let section = &page[from + heading.len()..];
    let section = section.split("\n## ").next().unwrap();
    for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
        let name = match argument.get_long() {
            Some(long) => format!("--{long}"),
            None => argument.get_value_names().unwrap()[0].to_string(),
        };
        let words: BTreeSet<&str> = section
            .split(|c: char| !(c.is_alphanumeric() || matches!(c, '-' | '_' | ':')))
            .collect();
        assert!(words.contains(name.as_str()), "docs/commands.md: `{path}` lacks {name}");
    }
    let shown = |inner: &&clap::Command| !inner.is_hide_set() && inner.get_name() != "help";
    for inner in command.get_subcommands().filter(shown) {
        check_command(inner, &format!("{path} {}", inner.get_name()), page);
    }
}

#[test]
fn the_page_of_json_names_every_field_and_metric() {
    let page = read("docs/json-and-metrics.md");
    let site = Site::new();
    let (_hub, leaf) = site.pair(&[]);
    let server = web::serve();
    let _flow = web::tunnel(leaf.proxy(), server).unwrap();
    let dir = site.dir("leaf");
    let mut fields = BTreeSet::new();
    for listing in [
        "status", "links", "flows", "lanes", "routes", "events", "errors", "logs", "members",
        "doctor",
    ] {
        gather(&json(&dir, &[listing]), &mut fields);
    }
    gather(&json(&dir, &["why", &server.to_string()]), &mut fields);
    gather(&json(&dir, &["ping", "hub", "--count", "1"]), &mut fields);
    gather(&json(&dir, &["netcheck"]), &mut fields);
    gather(&json(&site.dir("hub"), &["flows", "--exit"]), &mut fields);
    assert!(fields.contains("measuring") && fields.contains("candidates"), "{fields:?}");
    for field in fields {
        assert!(page.contains(&format!("`{field}`")), "docs/json-and-metrics.md lacks `{field}`");
    }
    let mut metrics = metrics(&dir);
    wait_for("the comparison of clocks", || {
        metrics = self::metrics(&dir);
        metrics.contains("ronproxy_clock_ahead_seconds")
    });
    for metric in metrics {
        assert!(page.contains(&format!("`{metric}`")), "docs/json-and-metrics.md lacks `{metric}`");
    }
}

/// The names of all fields.
fn gather(value: &Value, fields: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (name, inner) in object {
                fields.insert(name.clone());
                gather(inner, fields);
            }
        }
        Value::Array(values) => values.iter().for_each(|inner| gather(inner, fields)),
        _ => {}
    }
}

/// The names of all metrics that the node in `dir` has.
fn metrics(dir: &Path) -> BTreeSet<String> {
    let mut stream = UnixStream::connect(socket(dir)).unwrap();
    let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let types = answer.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    types.filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

#[test]
fn every_reason_of_a_refusal_has_its_cure() {
    let page = read("docs/troubleshooting.md");
    let source = read("src/flow/refusal.rs");
    let names = source.lines().filter_map(|line| line.trim().split_once(" => \""));
    // A cure is a sentence, a name is one word.
    let names = names.filter_map(|(_, name)| name.strip_suffix("\","));
    let names: Vec<&str> = names.filter(|name| !name.contains(' ')).collect();
    assert!(names.len() >= 10, "{names:?}");
    for name in names {
        let row = format!("\n| `{name}` |");
        assert!(page.contains(&row), "docs/troubleshooting.md has no row `{name}`");
    }
}

#[test]
fn every_reason_of_a_dropped_datagram_has_its_cure() {
    let page = read("docs/troubleshooting.md");
    let section = page.split("\n### Datagrams\n").nth(1).unwrap();
    let section = section.split("\n### ").next().unwrap();
    for reason in ronproxy::internals::flow::DatagramDrop::ALL {
        let name = format!("`{}`", reason.name());
        assert!(section.contains(&name), "docs/troubleshooting.md lacks the drop {name}");
    }
}

#[test]
fn every_document_is_a_chapter_and_every_link_leads_somewhere() {
    let summary = read("docs/SUMMARY.md");
    let mut documents: Vec<PathBuf> = OTHERS.iter().map(|name| root().join(name)).collect();
    for entry in fs::read_dir(root().join("docs")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "md") {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            let listed = name == "SUMMARY.md" || summary.contains(&format!("]({name})"));
            assert!(listed, "docs/{name} is no chapter in docs/SUMMARY.md");
            documents.push(path);
        }
    }
    let mut seen = 0;
    for document in documents {
        for link in links(&fs::read_to_string(&document).unwrap()) {
            assert!(leads_somewhere(&document, &link), "{}: dead link {link}", document.display());
            seen += 1;
        }
    }
    assert!(seen > 40, "{seen} links were found");
    assert!(!leads_somewhere(&root().join("README.md"), "docs/faq.md#no-such-heading"));
    assert!(!leads_somewhere(&root().join("README.md"), "docs/no-such-page.md"));
}

/// The most that an animated picture may weigh: it is loaded by everybody who looks at the README.
const PICTURE: u64 = 2 << 20;

#[test]
fn the_readme_begins_with_the_picture_of_the_demo_of_under_2_mib() {
    let readme = read("README.md");
    let first = readme.lines().filter(|line| !line.is_empty()).nth(1).unwrap();
    assert!(first.starts_with("![") && first.ends_with("(docs/demo.svg)"), "{first}");
    assert!(fs::metadata(root().join("docs/demo.svg")).unwrap().len() < PICTURE);
    let picture = read("docs/demo.svg");
    for part in
        ["@keyframes", "With the overlay: ", "Without it: ", "CUT", "REROUTED", "longest pause"]
    {
        assert!(picture.contains(part), "docs/demo.svg lacks {part}; docs/demo-picture makes it");
    }
}

#[test]
fn no_link_of_the_book_leads_out_of_the_book() {
    let mut pages = 0;
    for entry in fs::read_dir(root().join("docs")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "md") {
            continue;
        }
        pages += 1;
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(links_out_of_the_book(&text), [""; 0], "{}", path.display());
        // The book has an included file's text on the page that includes it.
        for included in text.lines().filter_map(included) {
            let text = read(&included);
            assert_eq!(links(&text), [""; 0], "{included} is a page of the book: name files there");
        }
    }
    assert!(pages > 15, "{pages} pages");
    let outside =
        "[a](faq.md#who) [b](../README.md) [c](https://example.org) [d](configuration.toml)";
    assert_eq!(links_out_of_the_book(outside), ["../README.md", "configuration.toml"]);
    assert_eq!(included("{{#include ../CHANGELOG.md}}").as_deref(), Some("CHANGELOG.md"));
}

/// The rule of CONTRIBUTING.md.
const LONGEST_NAME: usize = 68;

#[test]
fn no_function_has_a_name_of_over_68_characters() {
    let (code, mut names) = (code(), 0);
    for name in code.split("fn ").skip(1).filter_map(|rest| rest.split(['(', '<']).next()) {
        assert!(name.len() <= LONGEST_NAME || name.contains(' '), "{name}");
        names += 1;
    }
    assert!(names > 4_000, "{names} functions");
}

#[test]
fn every_test_that_the_threat_model_names_exists() {
    let (code, page) = (code(), read("docs/threat-model.md"));
    let is_test = |name: &&str| {
        let of_a_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        name.matches('_').count() > 3 && name.chars().all(of_a_name)
    };
    let tests: BTreeSet<&str> = page.split('`').skip(1).step_by(2).filter(is_test).collect();
    assert!(tests.len() > 80, "{} tests", tests.len());
    for test in tests {
        assert!(code.contains(&format!("fn {test}(")), "{test} does not exist");
    }
}

/// The source text of the program and its tests.
fn code() -> String {
    let mut folders: Vec<_> = ["src", "tests"].map(|folder| root().join(folder)).into();
    let mut code = String::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                code += &fs::read_to_string(path).unwrap();
            }
        }
    }
    code
}

/// The links to files that mdBook does not write: all that are no page beside this one.
fn links_out_of_the_book(text: &str) -> Vec<String> {
    let page = |link: &String| {
        let path = link.split('#').next().unwrap_or_default();
        path.is_empty() || (path.ends_with(".md") && !path.contains('/'))
    };
    links(text).into_iter().filter(|link| !page(link)).collect()
}

/// The Markdown file of the repository that a line of a page includes.
fn included(line: &str) -> Option<String> {
    let path = line.trim().strip_prefix("{{#include ../")?.strip_suffix("}}")?;
    path.ends_with(".md").then(|| path.to_owned())
}

/// The targets of the links of a text that stay in the repository.
fn links(text: &str) -> Vec<String> {
    let mut links = Vec::new();
    for line in prose(text) {
        let targets = line.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        let inner = targets.filter(|target| !target.contains("://") && !target.contains(':'));
        links.extend(inner.map(str::to_owned));
    }
    links
}

/// Whether the file is there, and the heading in it.
fn leads_somewhere(document: &Path, link: &str) -> bool {
    let (path, heading) = link.split_once('#').unwrap_or((link, ""));
    let target = match path {
        "" => document.to_owned(),
        path => document.parent().unwrap().join(path),
    };
    if heading.is_empty() {
        return target.exists();
    }
    fs::read_to_string(target).is_ok_and(|text| {
        let headings = prose(&text).filter(|line| line.starts_with('#'));
        headings.map(|line| anchor(line.trim_start_matches('#'))).any(|name| name == heading)
    })
}

/// The name by which a link leads to a heading, as mdBook and code hosts make it.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

/// The lines of a text that are not in a block of code.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut code = false;
    text.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        code ^= fence;
        !code && !fence
    })
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
