//! What the values of the configuration may be, and how they are read.

use std::time::Duration;

use hostler_run::options::{Cpus, Size, Time};
use toml::Value;

pub(super) const TIME: &str = "seconds, or a number with ms, s, m, h or d; 0 for never";
pub(super) const SIZE: &str = "bytes, or a number with K, M, G or T; 0 for no limit";
pub(super) const COUNT: &str = "a number; 0 for no limit";
pub(super) const CPU: &str = "a number of CPUs, such as 1.5; 0 for no limit";

/// `none`, or an address with a port; a name for the address will do.
pub(super) fn listen(text: &str) -> Option<Option<String>> {
    if text == "none" {
        return Some(None);
    }
    let (host, port) = text.rsplit_once(':')?;
    port.parse::<u16>().ok()?;
    (!host.is_empty()).then(|| Some(text.to_owned()))
}

/// A number or a text, as text.
pub(super) fn plain(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.trim().to_owned()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Float(number) => Some(number.to_string()),
        _ => None,
    }
}

pub(super) fn time(value: &Value) -> Option<f64> {
    let time: Time = plain(value)?.parse().ok()?;
    Some(time.span.as_secs_f64())
}

pub(super) fn span(value: &Value) -> Option<Duration> {
    let span = Duration::try_from_secs_f64(time(value)?).ok()?;
    (!span.is_zero()).then_some(span)
}

pub(super) fn size(value: &Value) -> Option<u64> {
    match plain(value)?.as_str() {
        "0" => Some(0),
        text => Some(text.parse::<Size>().ok()?.bytes),
    }
}

/// In thousandths.
pub(super) fn cpus(value: &Value) -> Option<u64> {
    match plain(value)?.as_str() {
        "0" => Some(0),
        text => Some(text.parse::<Cpus>().ok()?.millis),
    }
}

pub(super) fn count(value: &Value) -> Option<u64> {
    plain(value)?.parse().ok()
}

pub(super) fn names(value: &Value) -> Option<Vec<String>> {
    let names: Vec<String> = match value {
        Value::String(text) => text
            .split([',', ' '])
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect(),
        Value::Array(names) => names
            .iter()
            .map(|name| name.as_str().map(str::to_owned))
            .collect::<Option<_>>()?,
        _ => return None,
    };
    let fits = |name: &String| {
        let bare = name.strip_suffix('*').unwrap_or(name);
        bare.bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    names.iter().all(fits).then_some(names)
}
