//! A session and its close report, for people.

use std::fmt::Write as _;

use serde_json::Value;

use super::show::{self, at, cell};

/// All about a session, a line each.
pub(crate) fn sheet(session: &Value) -> String {
    let mut lines = Vec::new();
    lay("", session, &mut lines);
    let width = lines.iter().map(|(key, _)| key.chars().count()).max();
    let width = width.unwrap_or(0);
    lines.iter().fold(String::new(), |mut out, (key, value)| {
        let _ = writeln!(out, "{key:width$}  {}", show::plain(value));
        out
    })
}

fn lay(before: &str, value: &Value, lines: &mut Vec<(String, String)>) {
    for (key, value) in value.as_object().into_iter().flatten() {
        let name = format!("{before}{key}");
        match value {
            Value::Null => {}
            Value::Object(inner) if inner.is_empty() => {}
            Value::Array(inner) if inner.is_empty() => {}
            Value::Object(_) => lay(&format!("{name}."), value, lines),
            Value::Number(number) if key == "opened" || key == "closed" => {
                let time = number
                    .as_u64()
                    .map_or_else(|| number.to_string(), show::time);
                lines.push((name, time));
            }
            value => lines.push((name, cell(value))),
        }
    }
}

/// How exactly something was released, in words.
fn detail(detail: &Value) -> String {
    let of = |key: &str| detail.get(key).filter(|value| !value.is_null());
    if let Some(code) = of("code") {
        return format!(" with {code}");
    }
    if let Some(signal) = of("signal").and_then(Value::as_i64) {
        return format!(" by {}", super::signals::name(signal as i32));
    }
    if let Some(session) = of("session") {
        return format!(" in session {}", cell(session));
    }
    of("why").map_or_else(String::new, |why| format!(" ({})", cell(why)))
}

/// A close report for people.
pub(crate) fn report(report: &Value) -> String {
    let mut out = String::new();
    let list = |key: &str| {
        report
            .get(key)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
    };
    let span = |value: &Value, key: &str| {
        let ms = value.get(key).and_then(Value::as_f64);
        ms.map_or_else(|| "-".into(), |ms| format!("{ms:.1}ms"))
    };
    let by = match report.get("by") {
        Some(by @ Value::Object(_)) => match (at(by, "who"), at(by, "why")) {
            (who, why) if why == "-" || why.is_empty() => who,
            (who, why) => format!("{who} ({why})"),
        },
        other => cell(other.unwrap_or(&Value::Null)),
    };
    let _ = writeln!(
        out,
        "session {} closed in {}: {}, by {}",
        at(report, "session"),
        span(report, "took_ms"),
        at(report, "reason"),
        show::plain(&by)
    );
    for one in list("released") {
        let detail = one.get("detail").map(detail).unwrap_or_default();
        let line = format!(
            "  {} {} {}: {}{detail}, {}",
            at(one, "kind"),
            at(one, "id"),
            at(one, "name"),
            at(one, "how"),
            span(one, "ms")
        );
        let _ = writeln!(out, "{}", show::plain(&line));
    }
    // What is a resource itself is listed as one.
    let is_orphan = |one: &&Value| one.get("resource").is_none_or(Value::is_null);
    for one in list("left").filter(is_orphan) {
        let line = format!(
            "  left behind: {} (pid {}): {}, {}",
            at(one, "command"),
            at(one, "pid"),
            at(one, "how"),
            span(one, "ms")
        );
        let _ = writeln!(out, "{}", show::plain(&line));
    }
    for one in list("connected") {
        let to = one.get("to").unwrap_or(&Value::Null);
        let whose = match one.get("session") {
            Some(Value::String(session)) => format!("of session {session}"),
            _ => "of no session".to_owned(),
        };
        let line = format!(
            "  was connected to {} (pid {}): {} (pid {}), {whose}",
            at(to, "command"),
            at(to, "pid"),
            at(one, "command"),
            at(one, "pid")
        );
        let _ = writeln!(out, "{}", show::plain(&line));
    }
    for (key, what) in [("kept", "kept"), ("stuck", "stuck, and tried again")] {
        for one in list(key) {
            let _ = writeln!(out, "  {what}: {}", show::plain(&cell(one)));
        }
    }
    for child in list("children") {
        for line in self::report(child).lines() {
            let _ = writeln!(out, "  {line}");
        }
    }
    let _ = writeln!(out, "remaining: {}", at(report, "remaining"));
    out
}
