//! A configuration: read, or refused in one line.
#![no_main]
#![allow(dead_code)]

use std::path::PathBuf;

use libfuzzer_sys::fuzz_target;

#[path = "../../crates/hostler/src/serve/agents.rs"]
mod agents;
#[path = "../../crates/hostler/src/serve/config.rs"]
mod config;

/// As the host has it.
#[derive(Debug)]
struct Refused {
    line: String,
}

impl Refused {
    fn usage(line: impl Into<String>) -> Self {
        Self { line: line.into() }
    }

    fn failed(line: impl Into<String>) -> Self {
        Self::usage(line)
    }
}

thread_local! {
    static FILE: PathBuf = std::env::temp_dir().join(format!("hostler-fuzz-{}.toml", std::process::id()));
}

fuzz_target!(|text: &str| {
    FILE.with(|path| {
        std::fs::write(path, text).expect("written");
        if let Err(refused) = config::Config::read(Some(path), |_| None) {
            assert!(!refused.line.is_empty());
        }
    });
});
