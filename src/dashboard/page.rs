//! The files of the page, which are part of the program.

/// A file of the page.
pub(super) struct File {
    /// Its `Content-Type`.
    pub(super) kind: &'static str,
    /// Its content.
    pub(super) text: &'static str,
}

const HTML: &str = "text/html; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// What somebody without a session sees. It names nothing of this node.
pub(super) const CLOSED: File = File { kind: HTML, text: include_str!("page/closed.html") };

/// The file at a path.
pub(super) fn file(path: &str) -> Option<File> {
    let (kind, text) = match path {
        "/" => (HTML, include_str!("page/index.html")),
        "/style.css" => (STYLE, include_str!("page/style.css")),
        "/app.js" => (SCRIPT, include_str!("page/app.js")),
        "/format.js" => (SCRIPT, include_str!("page/format.js")),
        "/map.js" => (SCRIPT, include_str!("page/map.js")),
        "/flows.js" => (SCRIPT, include_str!("page/flows.js")),
        "/timeline.js" => (SCRIPT, include_str!("page/timeline.js")),
        "/members.js" => (SCRIPT, include_str!("page/members.js")),
        "/why.js" => (SCRIPT, include_str!("page/why.js")),
        "/icon.svg" => ("image/svg+xml", include_str!("page/icon.svg")),
        _ => return None,
    };
    Some(File { kind, text })
}
