//! The library's interface is what `docs/public-api.txt` lists, which a change of it must change too.
//!
//! The list is read from the pages that `cargo doc --no-deps` writes, as rustdoc's JSON needs a nightly compiler. Pages
//! of other builds may lie beside them, so the index says which are to be read.
//!
//! ```sh
//! cargo doc --no-deps && RON_WRITE=1 cargo test --test surface -- --ignored      # after a change that is meant
//! ```

#![expect(clippy::unwrap_used, reason = "a test fails by it")]

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    path::{Path, PathBuf},
};

/// The list.
const LIST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/public-api.txt");

/// Names of other crates that signatures may have: what every asynchronous program uses, and what listings are read
/// and written by. None of QUIC, TLS or HTTP.
const FOREIGN: [&str; 8] = [
    "AsyncRead",
    "AsyncWrite",
    "ReadBuf",
    "Serialize",
    "Serializer",
    "Deserialize",
    "Deserializer",
    // Of a future.
    "Output",
];

/// The parts of a page of an item: its declaration, its methods, and the traits that it has by itself.
struct Item {
    name: String,
    declaration: String,
    methods: Vec<String>,
    traits: Vec<String>,
}

#[test]
#[ignore = "reads what `cargo doc --no-deps` has written"]
fn the_interface_is_the_reviewed_list() {
    let items = interface();
    assert!(items.len() > 30, "only {} items: has `cargo doc` run?", items.len());
    let found = listed(&items);
    if std::env::var_os("RON_WRITE").is_some() {
        std::fs::write(LIST, &found).unwrap();
    }
    let reviewed = std::fs::read_to_string(LIST).unwrap();
    let (found, reviewed): (Vec<_>, Vec<_>) = (found.lines().collect(), reviewed.lines().collect());
    let only_in = |these: &[&str], others: &[&str]| {
        these
            .iter()
            .filter(|line| !others.contains(line))
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    };
    let (new, gone) = (only_in(&found, &reviewed), only_in(&reviewed, &found));
    assert!(found == reviewed, "the interface changed.\nnew: {new:#?}\ngone: {gone:#?}");
}

#[test]
#[ignore = "reads what `cargo doc --no-deps` has written"]
fn signatures_name_types_of_the_interface_or_of_std_alone() {
    let items = interface();
    let ours: BTreeSet<_> = items.iter().map(|item| item.name.as_str()).collect();
    let mut inside = BTreeSet::new();
    for page in items.iter().map(|item| page(&item.name)) {
        for signature in signatures(&page) {
            inside.extend(unknown_names(&signature, &ours));
        }
    }
    assert!(inside.is_empty(), "not part of the interface: {inside:?}");
}

#[test]
fn names_without_a_page_are_found_in_signatures() {
    let ours = BTreeSet::from(["Node"]);
    let linked = r#"pub fn <a class="fn">of</a>&lt;T&gt;(&amp;self, <a title="struct noq::Connection">Connection</a>)"#;
    assert_eq!(unknown_names(linked, &ours), ["noq::Connection"]);
    let plain =
        r#"pub fn of(<a title="struct ronproxy::Node">Node</a>, T, Endpoint) -&gt; Self::Error"#;
    assert_eq!(unknown_names(plain, &ours), ["Endpoint"]);
}

/// The items at the crate's root.
fn interface() -> Vec<Item> {
    let index = std::fs::read_to_string(root().join("all.html")).unwrap();
    let pages = index.split("href=\"").skip(1).filter_map(|link| link.split('"').next());
    let pages = pages.filter(|page| page.contains('.') && !page.contains(['/', '#']));
    let names: BTreeSet<_> = pages.filter_map(|page| page.split('.').nth(1)).collect();
    names.into_iter().filter(|name| *name != "html").map(Item::read).collect()
}

fn listed(items: &[Item]) -> String {
    let mut list = String::new();
    for item in items {
        writeln!(list, "{}", item.declaration).unwrap();
        for line in item.methods.iter().chain(&item.traits) {
            writeln!(list, "    {line}").unwrap();
        }
        list.push('\n');
    }
    list
}

impl Item {
    fn read(name: &str) -> Self {
        let page = page(name);
        let text = |(before, end): (&str, &str), part: &str| -> Vec<String> {
            let lines = between(part, before, end).into_iter().map(|html| one_line(&plain(html)));
            // What `derive` adds for patterns cannot be used.
            lines.filter(|line| !line.starts_with("impl StructuralPartialEq")).collect()
        };
        Self {
            name: name.to_owned(),
            declaration: plain(declaration(&page)),
            methods: text(METHOD, section(&page, "implementations-list")),
            traits: text(IMPL, section(&page, "trait-implementations-list")),
        }
    }
}

const METHOD: (&str, &str) = ("<h4 class=\"code-header\">", "</h4>");
const IMPL: (&str, &str) = ("<h3 class=\"code-header\">", "</h3>");

fn root() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    target
        .unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target"))
        .join("doc/ronproxy")
}

fn page(name: &str) -> String {
    let kinds = ["struct", "enum", "trait", "type", "fn", "constant", "macro", "union", "static"];
    let paths = kinds.iter().map(|kind| root().join(format!("{kind}.{name}.html")));
    let read = paths.filter_map(|path| std::fs::read_to_string(path).ok()).collect::<Vec<_>>();
    assert_eq!(read.len(), 1, "{name}: remove target/doc, which has pages of other builds");
    read.into_iter().next().unwrap()
}

/// Everything on a page that names types: not what is inherited, nor what the compiler derives.
fn signatures(page: &str) -> Vec<String> {
    let mut found = vec![declaration(page).to_owned()];
    for list in ["implementations-list", "trait-implementations-list"] {
        for (before, end) in [METHOD, IMPL] {
            found.extend(between(section(page, list), before, end).into_iter().map(str::to_owned));
        }
    }
    found
}

fn declaration(page: &str) -> &str {
    between(page, "<pre class=\"rust item-decl\"><code>", "</code></pre>").first().copied().unwrap()
}

/// The list of this name on a page, or nothing.
fn section<'a>(page: &'a str, id: &str) -> &'a str {
    let start = page.split_once(&format!("<div id=\"{id}\">")).map_or("", |(_, rest)| rest);
    start.split("<h2").next().unwrap()
}

fn between<'a>(text: &'a str, before: &str, end: &str) -> Vec<&'a str> {
    text.split(before).skip(1).filter_map(|rest| rest.split(end).next()).collect()
}

/// HTML as text, without the buttons that fold it and without comments.
fn plain(html: &str) -> String {
    let html = html.replace("<div class=\"where\"", " <div").replace("]</div>", "]\n</div>");
    let html = without(
        &without(&html, ("<summary", "</summary>")),
        ("<span class=\"comment\"", "</span>"),
    );
    let parts = html.split('<').enumerate();
    let text: String = parts
        .map(
            |(n, part)| {
                if n == 0 { part } else { part.split_once('>').map_or("", |(_, rest)| rest) }
            },
        )
        .collect();
    let unescaped = text.replace("&lt;", "<").replace("&gt;", ">").replace("&#39;", "'");
    unescaped.replace("&quot;", "\"").replace("&nbsp;", " ").replace("&amp;", "&")
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Names in a signature that lead out of the interface: links to other crates, and names that have no page. Generic
/// parameters have one letter.
fn unknown_names(signature: &str, ours: &BTreeSet<&str>) -> Vec<String> {
    let mut unknown = Vec::new();
    let mut unlinked = String::new();
    for (n, part) in signature.split("<a ").enumerate() {
        let (link, rest) = if n == 0 { ("", part) } else { part.split_once("</a>").unwrap() };
        let target = between(link, "title=\"", "\"").first().copied().unwrap_or_default();
        let path = target.split(' ').nth(1).unwrap_or_default();
        let allowed = match path.split("::").next().unwrap() {
            "" | "core" | "alloc" | "std" => true,
            "ronproxy" => path.split("::").nth(1).is_some_and(|name| ours.contains(name)),
            _ => path.split("::").any(|name| FOREIGN.contains(&name)),
        };
        if !allowed {
            unknown.push(path.to_owned());
        }
        unlinked.push_str(rest);
    }
    let text = plain(&unlinked);
    for word in text.lines().flat_map(used_words) {
        let word = word.trim_matches(':');
        let named = word.len() > 1 && word.starts_with(char::is_uppercase);
        if named && !word.starts_with("Self") && !ours.contains(word) && !FOREIGN.contains(&word) {
            unknown.push(word.to_owned());
        }
    }
    unknown
}

/// The words of a line, without the variant or the associated type that the line defines.
fn used_words(line: &str) -> impl Iterator<Item = &str> {
    let line = line.trim_start();
    let line = line.strip_prefix("type ").unwrap_or(line);
    let defines = line.starts_with(char::is_uppercase);
    let words = line.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'));
    words.skip(usize::from(defines))
}

fn without(html: &str, (start, end): (&str, &str)) -> String {
    let mut parts = html.split(start);
    let first = parts.next().unwrap().to_owned();
    parts.fold(first, |kept, part| kept + part.split_once(end).map_or("", |(_, rest)| rest))
}
