//! The commands and the dashboard's page have the same words for the same thing.

use std::{collections::BTreeSet, path::Path};

use crate::{
    overlay::{Site, json, must, ronproxy, wait_for},
    web,
};

/// The heads of the first table that a command prints.
fn heads(dir: &Path, arguments: &[&str]) -> BTreeSet<String> {
    let said = must(dir, arguments);
    split(said.lines().find(|line| line.contains("  ")).unwrap())
}

fn split(line: &str) -> BTreeSet<String> {
    line.split("  ").map(|head| head.trim().to_owned()).filter(|head| !head.is_empty()).collect()
}

/// The heads that the page gives a table of index.html, in capitals. Those for readers of the screen alone have no
/// column in a listing.
fn on_page(table: &str) -> BTreeSet<String> {
    let page = include_str!("../../src/dashboard/page/index.html");
    let table = page.split(&format!("<table id=\"{table}\">")).nth(1).unwrap();
    let head = table.split("</thead>").next().unwrap();
    let shown = head.split("<th").skip(1);
    let shown = shown.filter(|head| !head.starts_with("ead") && !head.contains("class=\"hidden\""));
    let text = |head: &str| {
        let text = head.split_once('>').unwrap().1.split("</th>").next().unwrap();
        let text = text.rsplit_once("\">").map_or(text, |(_, text)| text);
        text.split('<').next().unwrap().to_uppercase()
    };
    shown.map(text).collect()
}

/// The heads of the page's table of flows.
fn of_flows() -> BTreeSet<String> {
    let script = include_str!("../../src/dashboard/page/flows.js");
    let columns = script.split("const COLUMNS = [").nth(1).unwrap().split("];").next().unwrap();
    let names = columns.split("[\"").skip(1).filter_map(|column| column.split('"').nth(2));
    names.filter(|name| !name.is_empty()).map(str::to_uppercase).collect()
}

#[test]
fn the_page_has_the_words_of_the_listings() {
    let site = Site::new();
    let (_hub, leaf) = site.pair(&[]);
    let dir = site.dir("leaf");
    let server = web::serve();
    let _flow = web::tunnel(leaf.proxy(), server).unwrap();
    wait_for("the flow", || json(&dir, &["flows"])[0]["state"] == "open");
    // As wide as needed, since nothing is a terminal here.
    let mut flows = heads(&dir, &["flows"]);
    let top = ronproxy(&dir).arg("top").output().unwrap();
    let top = String::from_utf8(top.stdout).unwrap();
    let of_top = top.lines().skip_while(|line| !line.starts_with("FLOWS")).nth(1).unwrap();
    assert!(split(of_top).is_subset(&(&flows | &BTreeSet::from(["RATE".to_owned()]))), "{of_top}");
    flows.extend(split(of_top));
    assert_eq!(of_flows().difference(&flows).count(), 0, "{:?} {flows:?}", of_flows());
    for (table, command) in [("links", "links"), ("member-table", "members")] {
        let (page, listing) = (on_page(table), heads(&dir, &[command]));
        assert!(page.len() > 4 && page.is_subset(&listing), "{page:?} {listing:?}");
    }
    assert!(
        must(&dir, &["flows"]).contains("quiet for") || must(&dir, &["flows"]).contains("active")
    );
    assert!(heads(&dir, &["lanes"]).contains("STATE"));
}
