//! docs/openapi.json and the answers of running nodes agree.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
};

use serde_json::Value;

use crate::{
    overlay::{Running, Site, configure, socket, wait_for},
    web,
};

/// The description.
fn described() -> Value {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/openapi.json");
    serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
}

/// Asks the node in `dir`: the status, the kind of the answer, and the answer.
fn ask(dir: &Path, method: &str, path: &str) -> (String, String, String) {
    let mut stream = UnixStream::connect(socket(dir)).unwrap();
    let request = format!(
        "{method} /api/v1{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let kind = head.lines().find_map(|line| line.strip_prefix("content-type: ")).unwrap();
    let kind = kind.split(';').next().unwrap().to_owned();
    (head.split(' ').nth(1).unwrap().to_owned(), kind, body.to_owned())
}

/// The path with all parameters that have an example.
fn example(path: &str, operation: &Value) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    for parameter in operation["parameters"].as_array().into_iter().flatten() {
        let text = match &parameter["example"] {
            Value::Null => continue,
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        query.append_pair(parameter["name"].as_str().unwrap(), &text);
    }
    format!("{path}?{}", query.finish())
}

/// What in `value` is not as the schema says, with its place; nothing if all is.
fn differs(all: &Value, schema: &Value, value: &Value, at: &str) -> Option<String> {
    if let Some(name) = schema["$ref"].as_str() {
        let found = all.pointer(name.strip_prefix('#').unwrap());
        return differs(all, found.unwrap_or_else(|| panic!("{name} is not there")), value, at);
    }
    for keyword in schema.as_object().unwrap().keys() {
        let known = [
            "description",
            "type",
            "enum",
            "const",
            "oneOf",
            "properties",
            "required",
            "additionalProperties",
            "items",
            "prefixItems",
        ];
        assert!(known.contains(&keyword.as_str()), "{at}: the test does not know {keyword}");
    }
    if let Some(schemas) = schema["oneOf"].as_array() {
        let wrong: Vec<String> =
            schemas.iter().filter_map(|one| differs(all, one, value, at)).collect();
        return (wrong.len() + 1 != schemas.len()).then(|| format!("{at}: {value}: {wrong:?}"));
    }
    let wrong = |what: &str| Some(format!("{at}: {value} is not {what}"));
    if !schema["const"].is_null() && schema["const"] != *value {
        return wrong(&schema["const"].to_string());
    }
    if schema["enum"].as_array().is_some_and(|names| !names.contains(value)) {
        return wrong(&schema["enum"].to_string());
    }
    let is = |kind: &Value| match kind.as_str().unwrap() {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("{at}: no type {other}"),
    };
    match &schema["type"] {
        Value::Null => {}
        Value::Array(kinds) if kinds.iter().any(is) => {}
        kind @ Value::String(_) if is(kind) => {}
        kind => return wrong(&kind.to_string()),
    }
    match value {
        Value::Object(fields) => {
            let required = schema["required"].as_array().into_iter().flatten();
            let missing =
                required.filter_map(Value::as_str).find(|name| !fields.contains_key(*name));
            let missing = missing.map(|name| format!("{at}: no {name}"));
            missing.or_else(|| {
                fields.iter().find_map(|(name, inner)| match &schema["properties"][name] {
                    Value::Null => Some(format!("{at}: {name} is not described")),
                    one => differs(all, one, inner, &format!("{at}.{name}")),
                })
            })
        }
        Value::Array(items) => items.iter().enumerate().find_map(|(n, item)| {
            let one = match &schema["prefixItems"][n] {
                Value::Null => &schema["items"],
                one => one,
            };
            match one.as_bool() {
                Some(_) => Some(format!("{at}: item {n} is one too many")),
                None => differs(all, one, item, &format!("{at}[{n}]")),
            }
        }),
        _ => None,
    }
}

#[test]
fn every_route_is_described_and_every_answer_is_as_described() {
    let api = described();
    let site = Site::new();
    let (_hub, leaf) = site.pair(&[]);
    let (hub, leaf_dir) = (site.dir("hub"), site.dir("leaf"));
    let server = web::serve();
    let _flow = web::tunnel(leaf.proxy(), server).unwrap();
    web::tunnel(leaf.proxy(), ([127, 0, 0, 1], 1).into()).unwrap_err();
    wait_for("the flow at its exit", || ask(&hub, "GET", "/exit-flows").2.len() > 2);

    // The node names its routes, and nothing else is described.
    let (status, _, routes) = ask(&leaf_dir, "GET", "/nothing");
    assert_eq!(status, "404");
    let words = routes.split([' ', ',', '\n']).filter(|word| word.starts_with('/'));
    let routes: BTreeSet<&str> = words.collect();
    let operations: BTreeMap<&String, &Value> = api["paths"].as_object().unwrap().iter().collect();
    let names: BTreeSet<&str> = operations.keys().map(|path| path.as_str()).collect();
    assert_eq!(names, routes);

    // `/stop` is the last one in this order but for `/why` and `/version`, so it comes afterwards.
    let all = operations.iter().filter(|(path, _)| **path != "/stop");
    for (path, methods) in all.chain(operations.get_key_value(&"/stop".to_owned())) {
        for (method, operation) in methods.as_object().unwrap() {
            for dir in [&leaf_dir, &hub] {
                let question = example(path, operation);
                let (status, kind, body) = ask(dir, &method.to_uppercase(), &question);
                let answer = &operation["responses"][&status];
                assert!(
                    answer.is_object(),
                    "{method} {question}: {status} is not described: {body}"
                );
                if status != "200" {
                    assert_eq!(kind, "text/plain", "{method} {question}: {body}");
                    continue;
                }
                let schema = &answer["content"][&kind]["schema"];
                assert!(schema.is_object(), "{method} {question}: {kind} is not described");
                if kind == "application/json" {
                    let body = serde_json::from_str(&body).unwrap();
                    assert_eq!(differs(&api, schema, &body, path), None, "{method} {question}");
                }
            }
        }
    }
}

#[test]
fn an_invitation_by_the_api_is_as_described() {
    let api = described();
    let site = Site::new();
    let hub = site.hub();
    configure(&hub, "invite_from_dashboard = false", "invite_from_dashboard = true");
    let _node = Running::start(&hub, &[]);
    let (status, kind, body) = ask(&hub, "POST", "/invite?name=leaf");
    assert_eq!((status.as_str(), kind.as_str()), ("200", "application/json"), "{body}");
    let schema = &api["components"]["schemas"]["Invited"];
    assert_eq!(differs(&api, schema, &serde_json::from_str(&body).unwrap(), "invited"), None);
}

#[test]
fn an_answer_that_is_not_as_described_is_found() {
    let api = described();
    let schema = &api["components"]["schemas"]["Version"];
    let check = |text: &str| differs(&api, schema, &serde_json::from_str(text).unwrap(), "version");
    assert_eq!(check(r#"{"version":"1","pid":2}"#), None);
    for wrong in [
        r#"{"version":"1"}"#,
        r#"{"version":1,"pid":2}"#,
        r#"{"version":"1","pid":2.5}"#,
        r#"{"version":"1","pid":2,"more":3}"#,
        "[]",
    ] {
        assert!(check(wrong).is_some(), "{wrong}");
    }
    let event = &api["components"]["schemas"]["Event"];
    let seen = |text: &str| differs(&api, event, &serde_json::from_str(text).unwrap(), "event");
    assert_eq!(seen(r#"{"id":1,"at_ms":2,"kind":"link-up","peer":"utah"}"#), None);
    assert!(seen(r#"{"id":1,"at_ms":2,"kind":"link-up","name":"utah"}"#).is_some());
}
