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
