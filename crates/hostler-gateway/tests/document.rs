//! The OpenAPI document that is kept is the one that is served.

use std::path::Path;

#[test]
fn the_document_that_is_kept_is_the_one_that_is_served() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/openapi.json");
    let served = hostler_gateway::document()
        .to_pretty_json()
        .expect("a document");
    if std::env::var_os("HOSTLER_WRITE_OPENAPI").is_some() {
        std::fs::write(&path, format!("{served}\n")).expect("written");
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept.trim_end() == served,
        "docs/openapi.json is out of date: run this test with HOSTLER_WRITE_OPENAPI=1"
    );
}

/// Each `.route(PATH, METHODS)` of the source, in that of the document.
#[test]
fn every_route_is_in_the_document() {
    let source = include_str!("../src/routes/mod.rs");
    let document = serde_json::to_value(hostler_gateway::document()).expect("JSON");
    let mut found = 0;
    for route in source.split(".route(").skip(1) {
        let path = route.split('"').nth(1).expect("a path");
        let rest = route.split('"').nth(2).expect("methods");
        let methods = rest.split("\n        .").next().unwrap_or(rest);
        for method in ["get", "post", "patch", "delete", "put"] {
            if !methods.contains(&format!("{method}(")) {
                continue;
            }
            found += 1;
            let there = document["paths"][path][method].is_object();
            assert!(there, "{method} {path} is not in the document");
        }
    }
    let told = document["paths"].as_object().expect("paths");
    let told: usize = told
        .values()
        .map(|of| of.as_object().map_or(0, |of| of.len()))
        .sum();
    assert_eq!(found, told, "as many as the document has");
    assert!(found > 40, "the source was understood");
}
